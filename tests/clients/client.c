/* SPDX-License-Identifier: MIT */
/*
 * A C client as small as they come: read, and with an argument write it, wait, read again.
 * It says what the posted mn_test says, and stands in for it where that program's source is not at hand.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char device[] = "/dev/memnotify";

static int read_line(int fd, char *line, size_t size)
{
	ssize_t length = read(fd, line, size);

	if (length <= 0) {
		printf("reading from %s failed\n", device);
		return -1;
	}
	line[length - 1] = '\0';
	return (int)length;
}

int main(int argc, char **argv)
{
	struct pollfd item = { .fd = open(device, O_RDWR), .events = POLLIN };
	char line[256];
	int length;

	printf("%s -- test for system-wide memory notification/meter %s\n", argv[0], device);
	if (item.fd < 0) {
		printf("cannot open device %s, do you have memnotify.ko loaded?\n", device);
		return 255;
	}
	printf("device %s opened successfuly with fd = %d\n", device, item.fd);
	length = read_line(item.fd, line, sizeof(line));
	if (length < 0)
		return 255;
	printf("read from %s %d bytes: '%s'\n", device, length, line);
	if (argc != 2)
		return 0;
	printf("establishing threshold '%s' and waiting\n", argv[1]);
	if (write(item.fd, argv[1], strlen(argv[1])) < 0) {
		printf("cannot set threshold '%s' for device %s\n", argv[1], device);
		return 255;
	}
	printf("polling for threshold '%s' to be changed to up/down\n", argv[1]);
	printf("poll(%d) returned %d\n", item.fd, poll(&item, 1, -1));
	if (read_line(item.fd, line, sizeof(line)) < 0)
		return 255;
	printf("--> memory figures reached '%s'\n", line);
	return 0;
}

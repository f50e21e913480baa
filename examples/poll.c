/* SPDX-License-Identifier: MIT */
/* Print the figures each time a threshold is crossed, up or down: poll [THRESHOLDS] */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *thresholds = argc > 1 ? argv[1] : "used 80%";
	struct pollfd device = { .fd = open("/dev/memnotify", O_RDWR | O_CLOEXEC), .events = POLLIN };

	if (device.fd < 0 || write(device.fd, thresholds, strlen(thresholds)) < 0) {
		perror("/dev/memnotify");
		return 1;
	}
	setlinebuf(stdout);
	printf("watching %s\n", thresholds);
	while (poll(&device, 1, -1) > 0 && !(device.revents & POLLERR)) {
		char line[256];
		ssize_t length = read(device.fd, line, sizeof(line)); /* acknowledges the event, too */

		if (length <= 0)
			break;
		printf("%.*s", (int)length, line);
	}
	fprintf(stderr, "the daemon has ended\n");
	return 1;
}

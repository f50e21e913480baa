/* SPDX-License-Identifier: MIT */
/* What each C and C++ client does: open and write, then read a line for each wake-up until the daemon ends. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline int begin(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (fd < 0 || write(fd, "used 80%", 8) != 8) {
		perror(path);
		exit(1);
	}
	puts("watching");
	return fd;
}

/* Print the line; 0 at the daemon's end. */
static inline int woken(int fd)
{
	char line[256];
	ssize_t length = read(fd, line, sizeof(line));

	if (length <= 0) {
		puts("end");
		return 0;
	}
	fwrite(line, 1, (size_t)length, stdout);
	return 1;
}

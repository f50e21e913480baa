/* SPDX-License-Identifier: MIT */
/* Print the state at the start and each time a threshold is crossed, up or down: wait [THRESHOLDS] */
#define _GNU_SOURCE /* for O_CLOEXEC under -std=c11 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const char *thresholds = "used 80%";

/* Open the device and set the thresholds; -1 if no daemon serves it. */
static int begin(int epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	const char *path = getenv("MEMNOTIFY_PATH");
	int device = open(path ? path : "/dev/memnotify", O_RDWR | O_CLOEXEC);

	if (device < 0)
		return -1;
	/* EPERM: a plain file, not the device. So nothing is written to it. */
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, device, &event) == 0 &&
	    write(device, thresholds, strlen(thresholds)) >= 0)
		return device;
	if (errno == EINVAL)
		err(2, "%s", thresholds); /* not understood */
	close(device);
	return -1;
}

/* On which side of the threshold `used` is; for other thresholds than "used N%", nothing. */
static const char *side(const char *line)
{
	unsigned long long total, used, percent;
	char unit;

	if (sscanf(thresholds, "used %llu%c", &percent, &unit) != 2 || unit != '%' ||
	    sscanf(line, "total %llu used %llu", &total, &used) != 2)
		return "";
	/* The threshold is rounded to the nearest page. */
	return used >= (percent * total + 50) / 100 ? "reached: " : "below: ";
}

int main(int argc, char *argv[])
{
	int epoll = epoll_create1(EPOLL_CLOEXEC), device, wait_ms = 20;
	struct epoll_event event;

	if (argc > 1)
		thresholds = argv[1];
	setlinebuf(stdout);
	device = begin(epoll);
	if (device < 0)
		err(1, "/dev/memnotify");
	printf("watching %s\n", thresholds);
	for (;;) {
		char line[256];
		ssize_t length;

		while (device < 0 && (device = begin(epoll)) < 0) {
			usleep(1000 * wait_ms);
			wait_ms = wait_ms < 500 ? 2 * wait_ms : 1000;
		}
		/* The first line of a daemon is the state now: what is exceeded already is no event. */
		length = read(device, line, sizeof line - 1); /* acknowledges an event */
		if (length <= 0) {
			close(device); /* also removes it from the epoll */
			device = -1;
			continue;
		}
		wait_ms = 20;
		line[length] = 0;
		printf("%s%s", side(line), line);
		while (epoll_wait(epoll, &event, 1, -1) < 0)
			if (errno != EINTR)
				err(1, "epoll_wait");
	}
}

/* SPDX-License-Identifier: MIT */
/* Print the figures each time a threshold is crossed, up or down: wait [THRESHOLDS] */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
	const char *thresholds = argc > 1 ? argv[1] : "used 80%";
	struct epoll_event event = { .events = EPOLLIN };
	int device = open("/dev/memnotify", O_RDWR | O_CLOEXEC);
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	/* EPERM: a plain file, not the device. So nothing is written to it. */
	if (device < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, device, &event) < 0)
		err(1, "/dev/memnotify");
	if (write(device, thresholds, strlen(thresholds)) < 0)
		err(2, "%s", thresholds); /* EINVAL: not understood */
	setlinebuf(stdout);
	printf("watching %s\n", thresholds);
	for (;;) {
		char line[256];
		ssize_t length;

		if (epoll_wait(epoll, &event, 1, -1) < 0) {
			if (errno == EINTR)
				continue;
			err(1, "epoll_wait");
		}
		length = read(device, line, sizeof line); /* acknowledges the event */
		if (length <= 0)
			errx(3, "the daemon has ended: open the device again");
		printf("%.*s", (int)length, line);
	}
}

/* SPDX-License-Identifier: MIT */
/*
 * Watch several thresholds of one figure, each with an open file of its own. Open them again when a
 * new daemon serves: epoll [THRESHOLDS...]
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct watch {
	const char *thresholds;
	int fd; /* -1 while no daemon serves the device */
};

static int begin(int epoll, struct watch *watch)
{
	struct epoll_event wanted = { .events = EPOLLIN, .data.ptr = watch };

	watch->fd = open("/dev/memnotify", O_RDWR | O_CLOEXEC);
	if (watch->fd < 0)
		return -1;
	if (write(watch->fd, watch->thresholds, strlen(watch->thresholds)) < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, watch->fd, &wanted) < 0) {
		close(watch->fd);
		watch->fd = -1;
		return -1;
	}
	printf("watching %s\n", watch->thresholds);
	return 0;
}

int main(int argc, char **argv)
{
	struct watch watches[8] = { { "used 60%", -1 }, { "used 80%", -1 } };
	int count = argc > 1 ? argc - 1 : 2;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	setlinebuf(stdout);
	if (count > 8) {
		fprintf(stderr, "usage: epoll [THRESHOLDS...], at most eight\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		if (argc > 1)
			watches[i].thresholds = argv[i + 1];
		if (begin(epoll, &watches[i]) < 0) {
			perror("/dev/memnotify");
			return 1;
		}
	}
	for (;;) {
		struct epoll_event event;
		struct watch *watch;
		int missing = 0;
		char line[256];
		ssize_t length;

		for (int i = 0; i < count; i++)
			missing += watches[i].fd < 0 && begin(epoll, &watches[i]) < 0;
		/* While no daemon serves the device, try again each second. */
		if (epoll_wait(epoll, &event, 1, missing ? 1000 : -1) <= 0)
			continue;
		watch = event.data.ptr;
		/* This also acknowledges the event. It fails when the daemon has ended. */
		length = read(watch->fd, line, sizeof(line));
		if (length > 0) {
			printf("%s: %.*s", watch->thresholds, (int)length, line);
			continue;
		}
		close(watch->fd); /* removes it from the epoll, too */
		watch->fd = -1;
	}
}

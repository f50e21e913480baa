/* SPDX-License-Identifier: MIT */
/*
 * Watch several thresholds of one figure, each by an open file of its own, and open them again after the
 * daemon was restarted: epoll [THRESHOLDS...]
 */
#define _GNU_SOURCE /* for O_CLOEXEC under -std=c11 */
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

/* Read the line, which acknowledges an event, and print it with the side on which `used` is; -1 at the end. */
static int report(const struct watch *watch)
{
	unsigned long long total, used, percent;
	const char *side = "";
	char line[256], unit;
	ssize_t length = read(watch->fd, line, sizeof(line) - 1);

	if (length <= 0)
		return -1;
	line[length] = 0;
	if (sscanf(watch->thresholds, "used %llu%c", &percent, &unit) == 2 && unit == '%' &&
	    sscanf(line, "total %llu used %llu", &total, &used) == 2)
		/* The threshold is rounded to the nearest page. */
		side = used >= (percent * total + 50) / 100 ? "reached: " : "below: ";
	printf("%s: %s%s", watch->thresholds, side, line);
	return 0;
}

static int begin(int epoll, struct watch *watch)
{
	struct epoll_event wanted = { .events = EPOLLIN, .data.ptr = watch };

	watch->fd = open("/dev/memnotify", O_RDWR | O_CLOEXEC);
	if (watch->fd < 0)
		return -1;
	/* EPERM: a plain file, not the device. So nothing is written to it. */
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, watch->fd, &wanted) < 0 ||
	    write(watch->fd, watch->thresholds, strlen(watch->thresholds)) < 0 ||
	    /* The state now: what is exceeded already is no event. */
	    printf("watching %s\n", watch->thresholds) < 0 || report(watch) < 0) {
		close(watch->fd);
		watch->fd = -1;
		return -1;
	}
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

		for (int i = 0; i < count; i++)
			missing += watches[i].fd < 0 && begin(epoll, &watches[i]) < 0;
		/* While a file is missing, try again once a second. */
		if (epoll_wait(epoll, &event, 1, missing ? 1000 : -1) <= 0)
			continue;
		watch = event.data.ptr;
		/* Fails after the daemon has ended. */
		if (report(watch) == 0)
			continue;
		close(watch->fd); /* also removes it from the epoll */
		watch->fd = -1;
	}
}

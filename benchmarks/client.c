/* SPDX-License-Identifier: MIT */
/*
 * client: the measured side of compare.py and peers.py, in C so that it costs little.
 *
 *     client read PATH COUNT     COUNT times pread(256 bytes); prints ns in all
 *     client poll PATH COUNT     COUNT times poll(fd, 1, 0); prints ns in all
 *     client pipe - COUNT        COUNT times one byte to another process and back; prints ns in all
 *     client wake PATH COUNT     holds COUNT open files in one epoll; driven by lines on stdin, one answer each:
 *         open           opens all, with a threshold never reached     -> opened NS_IN_ALL
 *         arm PAGES      sets every threshold to `used` + PAGES        -> armed, or early: a file is ready
 *         wait           until each was woken and has read             -> woken FIRST_NS LAST_NS (monotonic clock)
 *     client watch PATH PAGES    one open file with a threshold at `used` + PAGES   -> armed THRESHOLD, woken NS
 *     client sleep PATH COUNT    COUNT processes, each waiting for a threshold of its own, spread evenly over all
 *                                memory                                             -> ready; ends when stdin does
 *     client far PATH COUNT      the same, but the nearest threshold is a quarter of memory above `used`
 *     client meminfo - COUNT     COUNT processes, each reading /proc/meminfo 4 times a second; the same
 *     client stamp - 1           copies lines from stdin to stdout, each after the moment it came: NS LINE
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 256, EVENTS = 1024, WAIT_MS = 30000 };

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int open_device(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	return fd;
}

static void read_line(int fd, char line[LINE])
{
	ssize_t length = pread(fd, line, LINE - 1, 0);

	if (length <= 0)
		fail("read");
	line[length] = '\0';
}

static void measure_read(const char *path, long count)
{
	int fd = open_device(path);
	char line[LINE];
	int64_t start = now_ns();

	for (long i = 0; i < count; i++)
		read_line(fd, line);
	printf("%lld\n", (long long)(now_ns() - start));
}

static void measure_poll(const char *path, long count)
{
	struct pollfd item = { .fd = open_device(path), .events = POLLIN | POLLPRI };
	int64_t start = now_ns();

	for (long i = 0; i < count; i++)
		if (poll(&item, 1, 0) != 0)
			fail("poll: ready, though no threshold is set");
	printf("%lld\n", (long long)(now_ns() - start));
}

static void measure_pipe(long count)
{
	int there[2], back[2];
	char byte = 0;
	int64_t start;
	pid_t child;

	if (pipe(there) || pipe(back))
		fail("pipe");
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	start = now_ns();
	for (long i = 0; i < count; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			fail("pipe");
	printf("%lld\n", (long long)(now_ns() - start));
	close(there[1]);
	waitpid(child, NULL, 0);
}

/* ---- wake ---- */

struct clients {
	const char *path;
	long count;
	int *fds;
	bool *woken; /* since armed */
	int epoll;
	long long threshold;
};

static long long figure(const char *line, const char *name)
{
	const char *at = strstr(line, name);

	if (!at)
		fail("the line lacks a figure");
	return strtoll(at + strlen(name), NULL, 10);
}

static void set_used(int fd, long long pages)
{
	char text[64];
	int length = snprintf(text, sizeof(text), "used %lld", pages);

	if (write(fd, text, (size_t)length) != length)
		fail("write");
}

static void open_all(struct clients *clients)
{
	char line[LINE];
	long long total;
	int64_t start;
	int probe = open_device(clients->path);

	read_line(probe, line);
	close(probe);
	total = figure(line, "total ");
	start = now_ns();
	for (long i = 0; i < clients->count; i++) {
		struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)i };

		clients->fds[i] = open_device(clients->path);
		set_used(clients->fds[i], total);
		if (epoll_ctl(clients->epoll, EPOLL_CTL_ADD, clients->fds[i], &event))
			fail("epoll_ctl");
	}
	printf("opened %lld\n", (long long)(now_ns() - start));
}

static void arm_all(struct clients *clients, long margin_pages)
{
	struct epoll_event event;
	char line[LINE];

	read_line(clients->fds[0], line);
	clients->threshold = figure(line, "used ") + margin_pages;
	for (long i = 0; i < clients->count; i++)
		set_used(clients->fds[i], clients->threshold);
	memset(clients->woken, 0, (size_t)clients->count * sizeof(*clients->woken));
	printf("%s\n", epoll_wait(clients->epoll, &event, 1, 0) ? "early" : "armed");
}

/*
 * Edge mode: each client costs one notification, one poll and one read, as one thread per client would.
 * Level mode adds a second poll, after the read, that says "no more".
 */
static void wait_all(struct clients *clients)
{
	static struct epoll_event events[EVENTS];
	int64_t first = 0;
	char line[LINE];

	for (long missing = clients->count; missing;) {
		int ready = epoll_wait(clients->epoll, events, EVENTS, WAIT_MS);

		if (ready < 0)
			fail("epoll_wait");
		if (!ready) {
			read_line(clients->fds[0], line);
			fprintf(stderr, "client: %ld of %ld clients were not woken in %d ms: threshold %lld, now %s",
				missing, clients->count, WAIT_MS, clients->threshold, line);
			exit(1);
		}
		if (!first)
			first = now_ns();
		for (int i = 0; i < ready; i++) {
			read_line(clients->fds[events[i].data.u64], line);
			missing -= !clients->woken[events[i].data.u64];
			clients->woken[events[i].data.u64] = true;
		}
	}
	printf("woken %lld %lld\n", (long long)first, (long long)now_ns());
}

static void serve_wake(const char *path, long count)
{
	struct clients clients = { .path = path, .count = count, .epoll = epoll_create1(EPOLL_CLOEXEC) };
	struct rlimit files = { .rlim_cur = (rlim_t)count + 64, .rlim_max = (rlim_t)count + 64 };
	struct rlimit now;
	char command[64];

	if (getrlimit(RLIMIT_NOFILE, &now))
		fail("getrlimit");
	if (now.rlim_max > files.rlim_max)
		files.rlim_max = now.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files))
		fail("RLIMIT_NOFILE cannot be raised: fewer clients, or a larger fs.nr_open");
	clients.fds = malloc((size_t)count * sizeof(*clients.fds));
	clients.woken = malloc((size_t)count * sizeof(*clients.woken));
	if (clients.epoll < 0 || !clients.fds || !clients.woken)
		fail("epoll_create1 or malloc");
	while (fgets(command, sizeof(command), stdin)) {
		if (!strcmp(command, "open\n"))
			open_all(&clients);
		else if (!strncmp(command, "arm ", 4))
			arm_all(&clients, strtol(command + 4, NULL, 10));
		else if (!strcmp(command, "wait\n"))
			wait_all(&clients);
		fflush(stdout);
	}
}

/* ---- watch ---- */

static void watch(const char *path, long margin_pages)
{
	struct pollfd item = { .fd = open_device(path), .events = POLLIN };
	char line[LINE];
	long long threshold;
	int64_t woken;

	read_line(item.fd, line);
	threshold = figure(line, "used ") + margin_pages;
	set_used(item.fd, threshold);
	printf("armed %lld\n", threshold);
	fflush(stdout);
	if (poll(&item, 1, -1) != 1)
		fail("poll");
	woken = now_ns();
	if (item.revents != POLLIN)
		fail("poll: the server is gone");
	printf("woken %lld\n", (long long)woken);
}

/* ---- sleep, meminfo ---- */

static _Noreturn void sleep_at(const char *path, bool far, long number, long count)
{
	struct pollfd item = { .fd = open_device(path), .events = POLLIN };
	char line[LINE];
	long long total, least;

	read_line(item.fd, line);
	total = figure(line, "total ");
	least = far ? figure(line, "used ") + total / 4 : 0;
	set_used(item.fd, least + (total - least) * (number + 1) / (count + 1));
	printf("ready\n");
	fflush(stdout);
	while (poll(&item, 1, -1) == 1 && item.revents == POLLIN)
		read_line(item.fd, line);
	fail("poll");
}

/* What a careful C program would do: one open file, one read, one search for each of three figures. */
static _Noreturn void read_meminfo(long number, long count)
{
	static const char *const names[] = { "\nMemFree:", "\nMemAvailable:", "\nSwapFree:" };
	volatile long long kib;
	struct timespec next;
	char text[8192];
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("/proc/meminfo");
	clock_gettime(CLOCK_MONOTONIC, &next);
	/* Programs that were not started together do not wake together. */
	next.tv_nsec += 250000000 / count * number;
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

		if (length <= 0)
			fail("/proc/meminfo");
		text[length] = '\0';
		for (size_t i = 0; i < 3; i++)
			kib = figure(text, names[i]);
		(void)kib;
		next.tv_nsec += 250000000;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}

static void hold_children(const char *path, bool far, long count)
{
	pid_t parent = getpid();
	char byte;

	for (long i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child)
			continue;
		if (prctl(PR_SET_PDEATHSIG, SIGKILL))
			fail("PR_SET_PDEATHSIG");
		if (getppid() != parent)
			_exit(1);
		if (path)
			sleep_at(path, far, i, count);
		read_meminfo(i, count);
	}
	while (read(0, &byte, 1) == 1)
		;
}

/* ---- stamp ---- */

static void stamp(void)
{
	char text[4096], line[4096];
	size_t length = 0;
	ssize_t count;
	int64_t came = 0;

	while ((count = read(0, text, sizeof(text))) > 0) {
		int64_t now = now_ns();

		for (ssize_t i = 0; i < count; i++) {
			if (!length)
				came = now;
			if (text[i] != '\n' && length < sizeof(line) - 1) {
				line[length++] = text[i];
				continue;
			}
			printf("%lld %.*s\n", (long long)came, (int)length, line);
			length = 0;
		}
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	long count = argc == 4 ? strtol(argv[3], NULL, 10) : 0;

	if (count > 0 && !strcmp(argv[1], "read"))
		measure_read(argv[2], count);
	else if (count > 0 && !strcmp(argv[1], "poll"))
		measure_poll(argv[2], count);
	else if (count > 0 && !strcmp(argv[1], "pipe"))
		measure_pipe(count);
	else if (count > 0 && !strcmp(argv[1], "wake"))
		serve_wake(argv[2], count);
	else if (count > 0 && !strcmp(argv[1], "watch"))
		watch(argv[2], count);
	else if (count > 0 && !strcmp(argv[1], "sleep"))
		hold_children(argv[2], false, count);
	else if (count > 0 && !strcmp(argv[1], "far"))
		hold_children(argv[2], true, count);
	else if (count > 0 && !strcmp(argv[1], "meminfo"))
		hold_children(NULL, false, count);
	else if (count > 0 && !strcmp(argv[1], "stamp"))
		stamp();
	else {
		fprintf(stderr, "usage: client read|poll|pipe|wake|watch|sleep|meminfo|stamp PATH COUNT\n");
		return 2;
	}
	return 0;
}

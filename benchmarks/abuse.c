/* SPDX-License-Identifier: MIT */
/*
 * abuse: hostile processes, and innocent clients whose wake-ups they may delay. Ends when stdin does.
 *
 *     abuse wait UID PATH COUNT PAGES     COUNT processes; each has a threshold, waits in poll(2) and reads; prints
 *                                         "ready" each, then the monotonic time in ns at which each has read
 *     abuse wait-socket UID PATH COUNT PAGES   the same on the socket
 *     abuse KIND UID PATH COUNT PAGES     COUNT processes that do one thing in a loop; "ready" each once they do
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
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
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 4096, EVENTS = 64, OBSERVERS = 10000, PAIRS = 64, LONGEST = 4096 };

static const char *path;
static char threshold[64];
static size_t threshold_size;
static char valid[LONGEST], junk[LONGEST];

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "abuse: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void say(const char *line)
{
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		exit(1);
}

static void say_now(void)
{
	struct timespec now;
	char line[32];

	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(line, sizeof(line), "%lld\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
	say(line);
}

static int open_device(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	return fd;
}

static int connect_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

static void subscribe(int fd)
{
	if (write(fd, threshold, threshold_size) != (ssize_t)threshold_size)
		fail("write");
}

static void wait_on(int fd)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };
	char line[LINE];

	if (fd < 0)
		fail(path);
	subscribe(fd);
	say("ready\n");
	for (;;) {
		if (poll(&polled, 1, -1) < 0 || read(fd, line, sizeof(line)) <= 0)
			exit(0);
		say_now();
	}
}

static void wait_on_device(void)
{
	wait_on(open_device());
}

static void wait_on_socket(void)
{
	wait_on(connect_socket());
}

/* The kinds. None looks at what it is answered. */

static void spin(void)
{
	say("ready\n");
	for (;;)
		__asm__ volatile("");
}

static void reads(void)
{
	int fd = open_device();
	char line[LINE];

	say("ready\n");
	while (read(fd, line, sizeof(line)) != 0)
		;
}

static void write_all(const char *text)
{
	int fd = open_device();

	say("ready\n");
	for (;;)
		(void)!write(fd, text, LONGEST);
}

static void writes(void)
{
	write_all(valid);
}

static void refused(void)
{
	write_all(junk);
}

static void long_writes(void)
{
	static char megabyte[1 << 20];
	int fd = open_device();

	say("ready\n");
	for (;;)
		(void)!write(fd, megabyte, sizeof(megabyte));
}

static void polls(void)
{
	struct pollfd polled = { .fd = open_device(), .events = POLLIN };

	say("ready\n");
	for (;;)
		poll(&polled, 1, 0);
}

static void opens(void)
{
	say("ready\n");
	for (;;) {
		int fd = open(path, O_RDWR | O_CLOEXEC);

		if (fd >= 0)
			close(fd);
	}
}

static void epolls(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int fd = open_device(), epoll = epoll_create1(EPOLL_CLOEXEC);

	say("ready\n");
	for (;;) {
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
	}
}

/* As many as it gets, at the innocents' threshold; each reads and waits again. */
static void observers(void)
{
	struct epoll_event events[EVENTS], event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	char line[LINE];

	for (int i = 0; i < OBSERVERS; i++) {
		int fd = open(path, O_RDWR | O_CLOEXEC);

		if (fd < 0)
			break;
		subscribe(fd);
		event.data.fd = fd;
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	}
	say("ready\n");
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < count; i++)
			(void)!read(events[i].data.fd, line, sizeof(line));
	}
}

static void send_all(const char *text, size_t size)
{
	int fd = connect_socket();
	char lines[LINE];

	say("ready\n");
	for (;;) {
		if (fd < 0 || send(fd, text, size, MSG_NOSIGNAL) < 0) {
			close(fd);
			fd = connect_socket();
		}
		while (recv(fd, lines, sizeof(lines), MSG_DONTWAIT) > 0)
			;
	}
}

static void socket_writes(void)
{
	valid[LONGEST - 1] = '\n';
	send_all(valid, LONGEST);
}

static void socket_lines(void)
{
	static char lines[LONGEST];

	for (size_t i = 0; i + 9 <= sizeof(lines); i += 9)
		memcpy(lines + i, "used 99%\n", 9);
	send_all(lines, sizeof(lines) / 9 * 9);
}

static void socket_junk(void)
{
	send_all(junk, LONGEST);
}

static void socket_connects(void)
{
	say("ready\n");
	for (;;) {
		int fd = connect_socket();

		if (fd >= 0)
			close(fd);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} kinds[] = {
	{ "wait", wait_on_device },
	{ "wait-socket", wait_on_socket },
	{ "spin", spin },
	{ "read", reads },
	{ "write", writes },
	{ "refused", refused },
	{ "long", long_writes },
	{ "poll", polls },
	{ "open", opens },
	{ "epoll", epolls },
	{ "observers", observers },
	{ "socket-write", socket_writes },
	{ "socket-lines", socket_lines },
	{ "socket-junk", socket_junk },
	{ "socket-connect", socket_connects },
};

static void prepare(const char *pages)
{
	threshold_size = (size_t)snprintf(threshold, sizeof(threshold), "used %s\n", pages);
	/* As many pairs as are taken, and as long as is taken. */
	memset(valid, ' ', sizeof(valid));
	for (int i = 0; i < PAIRS; i++)
		memcpy(valid + i * (LONGEST / PAIRS), "used 1.50%", 10);
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = i % 9 == 8 ? '\n' : 'x';
}

int main(int argc, char **argv)
{
	struct rlimit files;
	void (*run)(void) = NULL;
	char byte;

	for (size_t i = 0; argc == 6 && i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(argv[1], kinds[i].name))
			run = kinds[i].run;
	if (run == NULL) {
		fprintf(stderr, "usage: abuse KIND UID PATH COUNT PAGES\n");
		return 2;
	}
	path = argv[3];
	prepare(argv[5]);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (setgroups(0, NULL) < 0 || setgid((gid_t)atoi(argv[2])) < 0 || setuid((uid_t)atoi(argv[2])) < 0)
		fail("setuid");
	for (int i = 0; i < atoi(argv[4]); i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(STDIN_FILENO);
			run();
			exit(0);
		}
	}
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}

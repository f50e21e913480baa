/* SPDX-License-Identifier: MIT */
/*
 * commit_limit DEVICE COUNT: at the machine's commit limit, end a client with COUNT open files, and let another read.
 *
 * It begins at a line on stdin, and ends with 0 once the read was answered. It is in C because Python may raise
 * MemoryError anywhere then. It is three processes: if the daemon ends with the read in hand, the reader cannot be
 * killed until the next daemon answers (fs/fuse/dev.c:request_wait_answer), so the reader must not hold the memory.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *device;

static int open_device(void)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		err(1, "%s", device);
	return fd;
}

static void be_client(int count, int opened)
{
	char text[64];

	for (int number = 0; number < count; number++) {
		int size = snprintf(text, sizeof(text), "used 60%% total %d", 10000000 + number);

		if (write(open_device(), text, size) != size)
			err(1, "write");
	}
	if (write(opened, "", 1) != 1)
		err(1, "pipe");
	pause();
}

static void be_reader(int go)
{
	char text[256];
	int fd = open_device();

	if (read(go, text, 1) != 1 || read(fd, text, sizeof(text)) <= 0)
		_exit(1);
}

/* Take the memory that is left, down to the last page. */
static void take(void)
{
	size_t size = 64 << 20;

	while (size >= 4096)
		if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
			size /= 2;
}

static void take_until_the_end_of(int process)
{
	struct pollfd end = {.fd = process, .events = POLLIN};

	do
		take();
	while (!poll(&end, 1, 0));
}

static pid_t child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

int main(int argc, char **argv)
{
	int opened[2], go[2], status;
	char byte;

	if (argc != 3 || pipe2(opened, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		errx(1, "usage: commit_limit DEVICE COUNT");
	device = argv[1];
	pid_t client = child();
	if (!client) {
		be_client(atoi(argv[2]), opened[1]);
		return 1;
	}
	pid_t reader = child();
	if (!reader) {
		be_reader(go[0]);
		return 0;
	}
	close(opened[1]);
	int client_end = syscall(SYS_pidfd_open, client, 0), reader_end = syscall(SYS_pidfd_open, reader, 0);
	if (client_end < 0 || reader_end < 0)
		err(1, "pidfd_open");
	if (read(opened[0], &byte, 1) != 1 || read(STDIN_FILENO, &byte, 1) != 1)
		errx(1, "not begun");
	take();
	kill(client, SIGKILL);
	take_until_the_end_of(client_end);
	if (write(go[1], "", 1) != 1)
		return 1;
	take_until_the_end_of(reader_end);
	waitpid(reader, &status, 0);
	return status != 0;
}

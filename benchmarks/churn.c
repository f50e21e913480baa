/* SPDX-License-Identifier: MIT */
/* Loads that are heavy on pages; prints what each costs: ns a page touched, ns a page populated, us a fork and exec. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SMALL = 32 << 20, LARGE = 200 << 20, TOUCHES = 40, POPULATES = 6, FORKS = 300 };

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static char *map(size_t size, int flags)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return memory;
}

/* Few enough pages for the per-CPU lists to keep them in between. */
static void touch(void)
{
	char *memory = map(SMALL, 0);

	madvise(memory, SMALL, MADV_NOHUGEPAGE);
	for (size_t offset = 0; offset < SMALL; offset += PAGE)
		memory[offset] = 1;
	munmap(memory, SMALL);
}

static void populate(void)
{
	munmap(map(LARGE, MAP_POPULATE), LARGE);
}

static void fork_and_exec(void)
{
	pid_t child = vfork();

	if (child == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	}
	waitpid(child, NULL, 0);
}

static double cost_ns(void (*load)(void), int times)
{
	double before;

	load();
	before = now_ns();
	for (int i = 0; i < times; i++)
		load();
	return (now_ns() - before) / times;
}

int main(void)
{
	printf("%f %f %f\n", cost_ns(touch, TOUCHES) / (SMALL / PAGE), cost_ns(populate, POPULATES) / (LARGE / PAGE),
	       cost_ns(fork_and_exec, FORKS) / 1000);
	return 0;
}

/* SPDX-License-Identifier: MIT */
/* A neighbour that leaves other programs no cache: it reads and writes four times what the last one holds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { LINE = 64, CACHES = 4 };

int main(void)
{
	long cache = sysconf(_SC_LEVEL4_CACHE_SIZE);
	volatile char *memory;
	size_t size;

	if (cache <= 0)
		cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
	/* 0 where the machine does not say. */
	size = CACHES * (cache > 0 ? (size_t)cache : 32UL << 20);
	memory = malloc(size);
	if (!memory) {
		perror("sweep");
		return 1;
	}
	prctl(PR_SET_PDEATHSIG, 9);
	memset((char *)memory, 1, size);
	printf("%zu MiB\n", size >> 20);
	fflush(stdout);
	for (;;)
		for (size_t offset = 0; offset < size; offset += LINE)
			memory[offset]++;
}

/* SPDX-License-Identifier: MIT */
/*
 * The figures as memnotify defines them, read in C: for the C server and for fill.c.
 * Set page_kib before reading them.
 */
#ifndef MEMNOTIFY_BENCHMARKS_FIGURES_H
#define MEMNOTIFY_BENCHMARKS_FIGURES_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TOTAL, USED, ACTIVE, NAMES };

static const int64_t SECOND = 1000000000; /* ns, as every time here */

struct figures {
	int64_t pages[NAMES];
};

struct sample {
	struct figures figures;
	int64_t taken; /* when reading it began */
	bool exact; /* `used` without the pages on the per-CPU free lists */
};

struct source {
	int fd;
	char *text;
	size_t capacity;
};

/* Each thread has its own, so that reading needs no lock. */
struct meter {
	struct source meminfo, zoneinfo;
};

static int64_t page_kib;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static int source_open(struct source *source, const char *path)
{
	source->capacity = 16384; /* meminfo has 1.5 KB; zoneinfo 5 KB with two CPUs, and grows with them */
	source->text = malloc(source->capacity);
	source->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (source->text && source->fd >= 0)
		return 0;
	perror(path);
	return -1;
}

static int source_read(struct source *source)
{
	size_t length = 0;
	ssize_t count;

	do {
		if (length + 1 == source->capacity) {
			char *larger = realloc(source->text, 2 * source->capacity);

			if (!larger)
				return -1;
			source->text = larger;
			source->capacity *= 2;
		}
		count = pread(source->fd, source->text + length, source->capacity - length - 1, (off_t)length);
		if (count < 0)
			return -1;
		length += (size_t)count;
	} while (count);
	source->text[length] = '\0';
	return 0;
}

static int64_t at_least_0(int64_t value)
{
	return value > 0 ? value : 0;
}

/* The figures without the per-CPU lists: `used` is then an upper bound of the exact one. */
static int read_plain(struct meter *meter, struct sample *out)
{
	enum {
		RAM, FREE, BUFFERS, CACHED, SWAP_CACHED, ACT, ACT_FILE, INACT_FILE, MLOCKED, SWAP, SWAP_FREE,
		SHMEM, RECLAIMABLE, FIELDS
	};
	/* In the kernel's order, so that one pass finds them all. */
	static const char *const fields[FIELDS] = {
		"MemTotal:", "\nMemFree:", "\nBuffers:", "\nCached:", "\nSwapCached:", "\nActive:",
		"\nActive(file):", "\nInactive(file):", "\nMlocked:", "\nSwapTotal:", "\nSwapFree:", "\nShmem:", "\nSReclaimable:",
	};
	int64_t kib[FIELDS], locked;
	char *at;

	out->taken = now_ns();
	out->exact = false;
	if (source_read(&meter->meminfo))
		return -1;
	at = meter->meminfo.text;
	for (int i = 0; i < FIELDS; i++) {
		at = strstr(at, fields[i]);
		if (!at)
			return -1;
		kib[i] = strtoll(at + strlen(fields[i]), &at, 10);
	}
	/* Mlocked has anonymous memory too, which `used` has already. */
	locked = at_least_0(kib[BUFFERS] + kib[CACHED] - kib[SHMEM] - kib[ACT_FILE] - kib[INACT_FILE]);
	if (locked > kib[MLOCKED])
		locked = kib[MLOCKED];
	out->figures.pages[TOTAL] = (kib[RAM] + kib[SWAP]) / page_kib;
	out->figures.pages[USED] = at_least_0(kib[RAM] + kib[SWAP] - kib[FREE] - kib[RECLAIMABLE] -
				      (kib[BUFFERS] + kib[CACHED] + kib[SWAP_CACHED]) + kib[SHMEM] +
				      locked - kib[SWAP_FREE]) / page_kib;
	out->figures.pages[ACTIVE] = kib[ACT] / page_kib;
	return 0;
}

/* Take the pages on the per-CPU free lists out of `used`. */
static int make_exact(struct meter *meter, struct sample *sample)
{
	static const char label[] = " count:";
	int64_t free_pages = 0;

	if (source_read(&meter->zoneinfo))
		return -1;
	for (char *at = meter->zoneinfo.text; (at = strstr(at, label));)
		free_pages += strtoll(at + strlen(label), &at, 10);
	sample->figures.pages[USED] = at_least_0(sample->figures.pages[USED] - free_pages);
	sample->exact = true;
	return 0;
}

#endif

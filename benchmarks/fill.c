/* SPDX-License-Identifier: MIT */
/*
 * fill: takes memory for peers.py, and says when a figure met a limit by it.
 *
 *     fill touch          small pages, one byte written in each
 *     fill memset         small pages, every byte written
 *     fill memset-huge    the same in transparent huge pages
 *     fill hugepages      vm.nr_hugepages raised in one write; put back at the end, whatever ends it
 *
 * Driven by lines on stdin, one answer each; ends, with all memory freed, when stdin does:
 *     warm MIB                 reads as much of an empty file, in huge pages if the file system has them: it
 *                              then lies in the page cache, counts as free for all, and `take` frees it just
 *                              before it begins. Pages on the free lists would not stay available: in
 *                              a virtual machine the kernel gives it back to the host after 2 s
 *                              -> warm
 *     take MIB FIGURE KIB      FIGURE is used (limit KIB met at or above, pages on the per-CPU free lists
 *                              being free) or available (MemAvailable; met at or below)
 *                              -> taken BEGUN_NS BELOW_NS MET_NS MIB_PER_S: monotonic clock; when it began,
 *                                 the last moment at which the limit was known not to be met and the first
 *                                 at which it was (0 0: never), and how fast memory was taken
 *     free                     -> freed
 * It is bound to the core FILL_CORE, so that it frees pages to the lists that it takes them from; FILL_DIRECTORY
 * is where the empty file is.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "figures.h"

enum { TOUCH_STEP = 2 << 20, MEMSET_STEP = 4 << 20, HUGE_PAGE = 2 << 20 };
static const char nr_hugepages[] = "/proc/sys/vm/nr_hugepages";

enum way { TOUCH, MEMSET, MEMSET_HUGE, HUGEPAGES };
static const char *const ways[] = { "touch", "memset", "memset-huge", "hugepages" };

struct limit {
	bool used; /* else MemAvailable */
	int64_t kib;
};

static struct meter meter;
static enum way way;
static char *held; /* what was taken, if it was mapped */
static size_t held_bytes;
static int file = -1; /* whose pages are cached */
static long reserved; /* vm.nr_hugepages as it was found */

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "fill: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Return how far the figure is from the limit, in KiB, or 0 or less if it has met it. Never too much. */
static int64_t distance(const struct limit *limit)
{
	static const char available[] = "\nMemAvailable:";
	struct sample sample;
	const char *at;

	if (read_plain(&meter, &sample))
		fail("/proc/meminfo cannot be read");
	if (!limit->used) {
		at = strstr(meter.meminfo.text, available);
		if (!at)
			fail("/proc/meminfo has no MemAvailable");
		return strtoll(at + strlen(available), NULL, 10) - limit->kib;
	}
	/* The plain figure is never below the exact one, which costs five times as much. */
	if (sample.figures.pages[USED] * page_kib >= limit->kib && make_exact(&meter, &sample))
		fail("/proc/zoneinfo cannot be read");
	return limit->kib - sample.figures.pages[USED] * page_kib;
}

static void map(size_t bytes)
{
	/* Aligned, so that huge pages fit. */
	held_bytes = bytes + HUGE_PAGE;
	held = mmap(NULL, held_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (held == MAP_FAILED)
		fail("mmap");
	/* A kernel without huge pages refuses this; then there are none to avoid or to request. */
	madvise(held, held_bytes, way == MEMSET_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void unmap(void)
{
	if (held && munmap(held, held_bytes))
		fail("munmap");
	held = NULL;
}

static void take_step(char *at, size_t bytes)
{
	if (way != TOUCH) {
		memset(at, 1, bytes);
		return;
	}
	for (size_t i = 0; i < bytes; i += (size_t)page_kib * 1024)
		*(volatile char *)(at + i) = 1;
}

static void take_mapped(size_t bytes, const struct limit *limit, int64_t *below, int64_t *reached)
{
	size_t step = way == TOUCH ? TOUCH_STEP : MEMSET_STEP, look = step;
	char *start;

	map(bytes);
	start = (char *)(((uintptr_t)held + HUGE_PAGE - 1) & ~((uintptr_t)HUGE_PAGE - 1));
	for (size_t done = 0; done < bytes; done += step) {
		size_t rest = bytes - done;

		if (!*reached && done >= look) {
			int64_t before = now_ns(), kib = distance(limit);

			if (kib <= 0)
				*reached = now_ns();
			else
				*below = before;
			/* Seldom at first, as looking slows the taking down. */
			look = done + (size_t)kib * 1024 / 2;
		}
		take_step(start + done, rest < step ? rest : step);
	}
}

static void warm(size_t bytes)
{
	const char *directory = getenv("FILL_DIRECTORY");
	struct statfs system;
	char *cached;

	file = open(directory ? directory : ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (file < 0 || ftruncate(file, (off_t)bytes) || fstatfs(file, &system))
		fail("FILL_DIRECTORY");
	if (system.f_type == TMPFS_MAGIC) {
		errno = EOPNOTSUPP;
		fail("FILL_DIRECTORY lies in a tmpfs, whose pages do not count as free");
	}
	cached = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
	if (cached == MAP_FAILED)
		fail("mmap");
	madvise(cached, bytes, MADV_HUGEPAGE);
	for (size_t i = 0; i < bytes; i += (size_t)page_kib * 1024)
		(void)*(volatile char *)(cached + i);
	if (munmap(cached, bytes))
		fail("munmap");
}

/* Drop all of it at once, without a change of any figure. */
static void drop_warm(void)
{
	if (file >= 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED))
		fail("posix_fadvise");
}

static long read_reserved(void)
{
	long pages;
	FILE *file = fopen(nr_hugepages, "r");

	if (!file || fscanf(file, "%ld", &pages) != 1)
		fail(nr_hugepages);
	fclose(file);
	return pages;
}

static bool reserve(long pages)
{
	FILE *file = fopen(nr_hugepages, "w");

	return file && fprintf(file, "%ld\n", pages) > 0 && !fclose(file);
}

static void put_back(void)
{
	if (!reserve(reserved))
		fprintf(stderr, "fill: %s could not be put back: sysctl vm.nr_hugepages=%ld\n", nr_hugepages,
			reserved);
}

/* BEGUN is then the last moment at which the limit is known not to be met. */
static void take_reserved(size_t bytes, const struct limit *limit, int64_t *reached)
{
	long wanted = reserved + (long)(bytes / HUGE_PAGE);
	int64_t done;

	if (!reserve(wanted))
		fail(nr_hugepages);
	done = now_ns();
	if (distance(limit) <= 0)
		*reached = done;
	if (read_reserved() != wanted)
		fprintf(stderr, "fill: the kernel reserved %ld huge pages of %ld\n", read_reserved(), wanted);
}

static void take(long mib, const struct limit *limit)
{
	int64_t begun, below, reached = 0, took;
	size_t bytes = (size_t)mib << 20;

	drop_warm();
	begun = below = now_ns();

	if (way == HUGEPAGES)
		take_reserved(bytes, limit, &reached);
	else
		take_mapped(bytes, limit, &below, &reached);
	took = now_ns() - begun;
	printf("taken %lld %lld %lld %lld\n", (long long)begun, reached ? (long long)below : 0,
	       (long long)reached, (long long)(mib * SECOND / took));
}

static void release(void)
{
	if (way == HUGEPAGES)
		put_back();
	else
		unmap();
}

static void serve(void)
{
	struct limit limit;
	char command[128], figure[16];
	long mib;
	long long kib;

	while (fgets(command, sizeof(command), stdin)) {
		if (sscanf(command, "warm %ld", &mib) == 1) {
			warm((size_t)mib << 20);
			printf("warm\n");
		} else if (sscanf(command, "take %ld %15s %lld", &mib, figure, &kib) == 3) {
			limit = (struct limit){ .used = !strcmp(figure, "used"), .kib = kib };
			take(mib, &limit);
		} else if (!strcmp(command, "free\n")) {
			release();
			printf("freed\n");
		}
		fflush(stdout);
	}
}

static void bind_to_core(void)
{
	const char *core = getenv("FILL_CORE");
	cpu_set_t set;

	if (!core)
		return;
	CPU_ZERO(&set);
	CPU_SET(atoi(core), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("FILL_CORE");
}

int main(int argc, char **argv)
{
	static const int deaf[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE };

	way = TOUCH;
	while (argc == 2 && way <= HUGEPAGES && strcmp(argv[1], ways[way]))
		way++;
	if (argc != 2 || way > HUGEPAGES) {
		fprintf(stderr, "usage: fill touch|memset|memset-huge|hugepages\n");
		return 2;
	}
	page_kib = sysconf(_SC_PAGESIZE) / 1024;
	if (source_open(&meter.meminfo, "/proc/meminfo") || source_open(&meter.zoneinfo, "/proc/zoneinfo"))
		return 1;
	bind_to_core();
	if (way == HUGEPAGES) {
		reserved = read_reserved();
		/* Only the end of stdin ends it, so that the reservation is undone, even if its reader has gone. */
		for (size_t i = 0; i < sizeof(deaf) / sizeof(*deaf); i++)
			signal(deaf[i], SIG_IGN);
		if (atexit(put_back))
			fail("atexit");
	}
	serve();
	return 0;
}

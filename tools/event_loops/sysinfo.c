/* SPDX-License-Identifier: MIT */
/* Preloaded: GMemoryMonitor warns of nothing while more than half of RAM is free by sysinfo(2). */
#include <sys/sysinfo.h>

int sysinfo(struct sysinfo *info)
{
	*info = (struct sysinfo){.totalram = 10, .freeram = 1, .mem_unit = 1};
	return 0;
}

/* SPDX-License-Identifier: MIT */
/* A service on sd-event that is told of memory pressure, as systemd's own are.
 *
 * It takes MEMORY_PRESSURE_WATCH and MEMORY_PRESSURE_WRITE from its environment and says on stdout
 * "ready" before the loop's first turn, "pressure N" from the N-th callback, and "refused: REASON" or
 * "loop: REASON" if the source could not be added or the loop has failed. To a line on stdin it
 * answers "on N US" or "off N US": whether sd-event still has the source enabled, how many callbacks
 * there were, and the CPU time used. It ends with stdin.
 */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <systemd/sd-event.h>
#include <unistd.h>

static unsigned long callbacks;

static int on_pressure(sd_event_source *source, void *userdata)
{
	(void)source;
	(void)userdata;
	printf("pressure %lu\n", ++callbacks);
	return 0;
}

static int on_stdin(sd_event_source *source, int fd, uint32_t revents, void *pressure)
{
	char line[64];
	struct rusage usage;
	int enabled;

	(void)revents;
	if (read(fd, line, sizeof(line)) <= 0)
		return sd_event_exit(sd_event_source_get_event(source), 0);
	getrusage(RUSAGE_SELF, &usage);
	sd_event_source_get_enabled(pressure, &enabled);
	printf("%s %lu %lld\n", enabled == SD_EVENT_ON ? "on" : "off", callbacks,
	       (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec +
		       usage.ru_stime.tv_usec);
	return 0;
}

int main(void)
{
	sd_event *event = NULL;
	sd_event_source *pressure = NULL;
	int result;

	setvbuf(stdout, NULL, _IOLBF, 0);
	result = sd_event_default(&event);
	if (result >= 0)
		result = sd_event_add_memory_pressure(event, &pressure, on_pressure, NULL);
	if (result >= 0)
		result = sd_event_add_io(event, NULL, STDIN_FILENO, EPOLLIN, on_stdin, pressure);
	if (result < 0) {
		printf("refused: %s\n", strerror(-result));
		return 1;
	}
	printf("ready\n");
	result = sd_event_loop(event);
	if (result < 0)
		printf("loop: %s\n", strerror(-result));
	sd_event_source_unref(pressure);
	sd_event_unref(event);
	return result < 0;
}

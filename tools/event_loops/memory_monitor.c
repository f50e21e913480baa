/* SPDX-License-Identifier: MIT */
/* A line for each warning: the figures, as the warning has none, and the monitor keeps its file to itself. */
#include <fcntl.h>
#include <gio/gio.h>
#include <stdio.h>
#include <unistd.h>

static void on_warning(GMemoryMonitor *monitor, GMemoryMonitorWarningLevel level, void *device)
{
	char line[256];
	int fd = open(device, O_RDONLY);
	ssize_t length = read(fd, line, sizeof line);

	(void)monitor, (void)level;
	close(fd);
	if (length > 0)
		printf("%.*s", (int)length, line);
}

/* With the device, and what to watch. */
int main(int count, char **arguments)
{
	char *thresholds = g_base64_encode((const guchar *)"used 80%\n", 9);

	if (count < 3 || glib_check_version(2, 90, 0))
		return 1;
	setvbuf(stdout, NULL, _IONBF, 0);
	/* Of 2.90.1 the default monitor, by D-Bus, drops the warnings of the one to which it falls back. */
	g_setenv("GIO_USE_MEMORY_MONITOR", "psi", TRUE);
	g_setenv("MEMORY_PRESSURE_WATCH", arguments[2], TRUE);
	g_setenv("MEMORY_PRESSURE_WRITE", thresholds, TRUE);
	g_signal_connect(g_memory_monitor_dup_default(), "low-memory-warning", G_CALLBACK(on_warning), arguments[1]);
	puts("watching");
	g_main_loop_run(g_main_loop_new(NULL, FALSE));
}

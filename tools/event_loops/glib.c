/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <glib-unix.h>

static gboolean on_ready(gint fd, GIOCondition condition, gpointer loop)
{
	(void)condition;
	if (woken(fd))
		return G_SOURCE_CONTINUE;
	g_main_loop_quit(loop);
	return G_SOURCE_REMOVE;
}

int main(int argc, char **argv)
{
	GMainLoop *loop = g_main_loop_new(NULL, FALSE);

	g_unix_fd_add(begin(argv[argc - 1]), G_IO_IN, on_ready, loop);
	g_main_loop_run(loop);
	return 0;
}

/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <ev.h>

static void on_ready(struct ev_loop *loop, ev_io *watcher, int events)
{
	(void)events;
	if (!woken(watcher->fd))
		ev_io_stop(loop, watcher);
}

int main(int argc, char **argv)
{
	struct ev_loop *loop = ev_default_loop(0);
	ev_io watcher;

	ev_io_init(&watcher, on_ready, begin(argv[argc - 1]), EV_READ);
	ev_io_start(loop, &watcher);
	ev_run(loop, 0);
	return 0;
}

/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <event2/event.h>

static void on_ready(evutil_socket_t fd, short events, void *base)
{
	(void)events;
	if (!woken(fd))
		event_base_loopbreak(base);
}

int main(int argc, char **argv)
{
	struct event_base *base = event_base_new();
	struct event *event = event_new(base, begin(argv[argc - 1]), EV_READ | EV_PERSIST, on_ready, base);

	event_add(event, NULL);
	event_base_dispatch(base);
	return 0;
}

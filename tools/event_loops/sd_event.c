/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <sys/epoll.h>
#include <systemd/sd-event.h>

static int on_ready(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	(void)events;
	(void)userdata;
	return woken(fd) ? 0 : sd_event_exit(sd_event_source_get_event(source), 0);
}

int main(int argc, char **argv)
{
	sd_event *event = NULL;

	if (sd_event_default(&event) < 0 ||
	    sd_event_add_io(event, NULL, begin(argv[argc - 1]), EPOLLIN, on_ready, NULL) < 0)
		return 1;
	return sd_event_loop(event);
}

/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <uv.h>

static int fd;

static void on_ready(uv_poll_t *handle, int status, int events)
{
	(void)events;
	if (status < 0 || !woken(fd)) {
		if (status < 0)
			puts("end");
		uv_poll_stop(handle);
	}
}

int main(int argc, char **argv)
{
	uv_poll_t handle;

	fd = begin(argv[argc - 1]);
	if (uv_poll_init(uv_default_loop(), &handle, fd) || uv_poll_start(&handle, UV_READABLE, on_ready))
		return 1;
	return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

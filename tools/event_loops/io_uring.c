/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <liburing.h>

int main(int argc, char **argv)
{
	int fd = begin(argv[argc - 1]);
	struct io_uring_cqe *completion;
	struct io_uring ring;
	char line[256];
	int length;

	/* With O_NONBLOCK the kernel would not wait: the read would return the figures of now. */
	fcntl(fd, F_SETFL, 0);

	if (io_uring_queue_init(1, &ring, 0) < 0)
		return 1;
	do {
		/* The kernel waits until the file is readable, then reads. */
		io_uring_prep_read(io_uring_get_sqe(&ring), fd, line, sizeof(line), 0);
		io_uring_submit_and_wait(&ring, 1);
		if (io_uring_wait_cqe(&ring, &completion) < 0)
			return 1;
		length = completion->res;
		io_uring_cqe_seen(&ring, completion);
		if (length > 0)
			fwrite(line, 1, (size_t)length, stdout);
	} while (length > 0);
	puts("end");
	return 0;
}

/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <boost/asio.hpp>

static void wait(boost::asio::posix::stream_descriptor &device)
{
	device.async_wait(device.wait_read, [&device](const boost::system::error_code &error) {
		if (error)
			puts("end");
		else if (woken(device.native_handle()))
			wait(device);
	});
}

int main(int argc, char **argv)
{
	boost::asio::io_context context;
	boost::asio::posix::stream_descriptor device(context, begin(argv[argc - 1]));

	wait(device);
	context.run();
}

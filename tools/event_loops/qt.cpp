/* SPDX-License-Identifier: MIT */
#include "device.h"
#include <QCoreApplication>
#include <QSocketNotifier>

int main(int argc, char **argv)
{
	QCoreApplication application(argc, argv);
	QSocketNotifier notifier(begin(argv[argc - 1]), QSocketNotifier::Read);

	QObject::connect(&notifier, &QSocketNotifier::activated, [&notifier] {
		if (!woken(static_cast<int>(notifier.socket())))
			QCoreApplication::quit();
	});
	return QCoreApplication::exec();
}

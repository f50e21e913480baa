# SPDX-License-Identifier: MIT
use IO::Select;
$| = 1;
open(my $device, "+<", $ARGV[0]) or die;
syswrite($device, "used 80%") or die;
print "watching\n";
my $select = IO::Select->new($device);
while ($select->can_read) {
	sysread($device, my $line, 256) or last;
	print $line;
}
print "end\n";
close($device);

# SPDX-License-Identifier: MIT
$stdout.sync = true
device = File.open(ARGV[0], "r+")
device.syswrite("used 80%")
puts "watching"
begin
  loop do
    IO.select([device])
    print device.sysread(256)
  end
rescue SystemCallError, EOFError
  puts "end"
end

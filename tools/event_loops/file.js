// SPDX-License-Identifier: MIT
const fs = require("fs");
const device = fs.openSync(process.argv[2], "r+");
fs.writeSync(device, "used 80%");
try {
  new (require("net").Socket)({ fd: device }).on("data", (line) => process.stdout.write(line));
} catch (error) {
  console.log(error.code);
}

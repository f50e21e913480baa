// SPDX-License-Identifier: MIT
const daemon = require("net").connect(process.argv[2], () => daemon.write("used 80%\nread\n"));
daemon.on("data", (line) => process.stdout.write(line));
daemon.on("end", () => console.log("end"));

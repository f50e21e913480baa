// SPDX-License-Identifier: MIT

import java.io.RandomAccessFile;

class RandomAccess {
    public static void main(String[] arguments) throws Exception {
        RandomAccessFile device = new RandomAccessFile(arguments[0], "rw");
        Thread reader = new Thread(() -> {
            try {
                device.readLine();
            } catch (Throwable error) {
                System.out.println(error);
            }
        });
        reader.setDaemon(true);
        reader.start();
        reader.join(2000);
        System.out.println(reader.isAlive() ? "readLine does not return" : "readLine has returned");
        byte[] line = new byte[256];
        int count = new RandomAccessFile(arguments[0], "r").read(line);
        System.out.print("read with a buffer: " + new String(line, 0, count));
    }
}

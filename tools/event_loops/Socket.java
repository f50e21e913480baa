// SPDX-License-Identifier: MIT

import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

class Socket {
    public static void main(String[] arguments) throws Exception {
        ByteBuffer line = ByteBuffer.allocate(256);
        try (SocketChannel daemon = SocketChannel.open(UnixDomainSocketAddress.of(arguments[0]))) {
            daemon.write(ByteBuffer.wrap("used 80%\nread\n".getBytes()));
            while (daemon.read(line) > 0) {
                System.out.print(new String(line.array(), 0, line.position()));
                line.clear();
            }
        }
        System.out.println("end");
    }
}

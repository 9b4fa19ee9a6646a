// SPDX-License-Identifier: Apache-2.0
/* vsock-call CID PORT: calls, says a word, and prints "closed" when the other side hangs up; inside the guest. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
/* After sys/socket.h, which it needs. */
#include <linux/vm_sockets.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	char byte;

	if (argc != 3)
		return 2;
	address.svm_cid = strtoul(argv[1], NULL, 10);
	address.svm_port = strtoul(argv[2], NULL, 10);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror("connect");
		return 1;
	}
	if (send(fd, "hello", 5, MSG_NOSIGNAL) < 0)
		perror("send");
	if (read(fd, &byte, 1) > 0)
		puts("answered");
	else
		puts("closed");
	return 0;
}

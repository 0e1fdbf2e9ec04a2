//! One scoring request from socket to socket.

// A TCP proxy that holds back every byte of the answers for a fixed time, as a distant server would.
//
//	latency LISTEN UPSTREAM MILLISECONDS
//
// Bandwidth and order stay as they are; the delay is of each chunk, not between chunks. Go, because at thousands of
// requests a second a proxy in Python would be what is measured.
package main

import (
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"time"
)

type chunk struct {
	due  time.Time
	data []byte
}

func delayed(to net.Conn, from net.Conn, delay time.Duration) {
	queue := make(chan chunk, 1024)
	go func() {
		defer to.Close()
		for c := range queue {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.data); err != nil {
				from.Close()
			}
		}
	}()
	for {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			queue <- chunk{time.Now().Add(delay), buffer[:n]}
		}
		if err != nil {
			close(queue)
			return
		}
	}
}

func main() {
	milliseconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			server, err := net.Dial("tcp", os.Args[2])
			if err != nil {
				client.Close()
				return
			}
			go func() {
				io.Copy(server, client)
				server.(*net.TCPConn).CloseWrite()
			}()
			delayed(client, server, time.Duration(milliseconds)*time.Millisecond)
			server.Close()
		}()
	}
}

// Command h2c talks HTTP/2 without TLS with Go's stack.
//
//	h2c serve           prints its port, then serves HTTP/1.1, its upgrade and prior knowledge until its standard input ends
//	h2c call PORT COUNT so many calls with prior knowledge, eight at once over a connection, each with a context of its own
//	h2c rpc-serve, h2c rpc-call PORT COUNT likewise of gRPC
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

const atOnce = 8

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

// answer reads the request, takes its time, and answers in two frames and trailers.
func answer(writer http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	time.Sleep(5 * time.Millisecond)
	writer.Header().Set("Trailer", "Grpc-Status")
	io.WriteString(writer, strings.Repeat("a", 2000))
	writer.(http.Flusher).Flush()
	io.WriteString(writer, request.Proto)
	writer.Header().Set("Grpc-Status", "0")
}

func serve() {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: h2c.NewHandler(http.HandlerFunc(answer), &http2.Server{})}
	go server.Serve(listener)
	io.Copy(io.Discard, os.Stdin)
}

func traceparent(number int) string {
	return fmt.Sprintf("00-%032x-%016x-01", number+1, number+1)
}

// inParallel makes the calls from 0 on, so many at once.
func inParallel(atOnce, count int, call func(number int)) {
	var calls sync.WaitGroup
	for first := range atOnce {
		calls.Add(1)
		go func() {
			defer calls.Done()
			for number := first; number < count; number += atOnce {
				call(number)
			}
		}()
	}
	calls.Wait()
}

func call(port string, count int) {
	client := http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(_ context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, address)
		},
	}}
	inParallel(atOnce, count, func(number int) {
		body := strings.NewReader(strings.Repeat("q", number*50))
		request := must(http.NewRequest("POST", "http://127.0.0.1:"+port+"/", body))
		request.Header.Set("Traceparent", traceparent(number))
		response := must(client.Do(request))
		must(io.Copy(io.Discard, response.Body))
		response.Body.Close()
	})
	client.CloseIdleConnections()
}

func main() {
	switch os.Args[1] {
	case "serve":
		serve()
	case "rpc-serve":
		rpcServe()
	case "call":
		call(os.Args[2], must(strconv.Atoi(os.Args[3])))
	case "rpc-call":
		rpcCall(os.Args[2], must(strconv.Atoi(os.Args[3])))
	}
}

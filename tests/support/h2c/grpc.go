package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	rpcAtOnce = 100
	rpcFails  = "/t.T/Fails"
)

// raw passes messages on as they are.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error)         { return *message.(*[]byte), nil }
func (raw) Unmarshal(content []byte, message any) error { *message.(*[]byte) = content; return nil }
func (raw) Name() string                                { return "raw" }

// echo answers each message of a call with itself, or fails.
func echo(_ any, stream grpc.ServerStream) error {
	if method, _ := grpc.MethodFromServerStream(stream); method == rpcFails {
		return status.Error(codes.NotFound, "no")
	}
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

// rpcServe serves gRPC; connections end by GOAWAY when they are 50 ms old.
func rpcServe() {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	age := keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(echo), grpc.KeepaliveParams(age))
	go server.Serve(listener)
	io.Copy(io.Discard, os.Stdin)
}

func traced(number int) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "traceparent", traceparent(number))
}

// rpcCall makes so many unary calls of gRPC, a hundred at once, then one that streams both ways and one that fails.
func rpcCall(port string, count int) {
	channel := must(grpc.NewClient("127.0.0.1:"+port,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}))))
	inParallel(rpcAtOnce, count, func(number int) {
		asked, answered := make([]byte, number*50), []byte{}
		must(true, channel.Invoke(traced(number), "/t.T/Unary", &asked, &answered))
	})
	both := grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream := must(channel.NewStream(traced(count), &both, "/t.T/Stream"))
	for range 3 {
		message := []byte("message")
		must(true, stream.SendMsg(&message))
		must(true, stream.RecvMsg(&message))
	}
	must(true, stream.CloseSend())
	if err := stream.RecvMsg(&[]byte{}); err != io.EOF {
		must(true, err)
	}
	err := channel.Invoke(traced(count+1), rpcFails, &[]byte{}, &[]byte{})
	if status.Code(err) != codes.NotFound {
		must(true, fmt.Errorf("it did not fail: %w", err))
	}
	channel.Close()
}

// Command tls_stacks makes connections of TLS or QUIC with Go's stacks, and says what each end made of them.
//
//	tls_stacks serve ADDRESS CERTIFICATE KEY     prints the address, then serves until its standard input ends
//	tls_stacks connect ADDRESS AUTHORITY TIMES   prints each connection's state, a line of JSON each
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/quic-go/quic-go"
)

var (
	overQuic  = flag.Bool("quic", false, "QUIC, not TLS over TCP")
	quicTwo   = flag.Bool("quic2", false, "version 2 of QUIC")
	version   = flag.String("version", "", "1.2 or 1.3 alone")
	protocols = flag.String("protocols", "", "ALPN, with commas between")
	cipher    = flag.String("cipher", "", "the one suite of TLS 1.2 to offer")
	name      = flag.String("name", "shop.example", "the server to ask for")
)

// State is what an end says of a connection that it made, or did not.
type State struct {
	Port     int    `json:"port"`
	Version  uint16 `json:"version"`
	Cipher   string `json:"cipher"`
	Protocol string `json:"protocol"`
	Resumed  bool   `json:"resumed"`
	Error    string `json:"error"`
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func config() *tls.Config {
	made := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: *name, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if *version == "1.2" {
		made.MaxVersion = tls.VersionTLS12
	} else if *version == "1.3" {
		made.MinVersion = tls.VersionTLS13
	}
	if *protocols != "" {
		made.NextProtos = strings.Split(*protocols, ",")
	}
	for _, suite := range tls.CipherSuites() {
		if suite.Name == *cipher {
			made.CipherSuites = []uint16{suite.ID}
		}
	}
	return made
}

func quicConfig() *quic.Config {
	if *quicTwo {
		return &quic.Config{Versions: []quic.Version{quic.Version2}}
	}
	return &quic.Config{}
}

func state(port int, of tls.ConnectionState, err error) State {
	if err != nil {
		return State{Port: port, Error: err.Error()}
	}
	return State{port, of.Version, tls.CipherSuiteName(of.CipherSuite), of.NegotiatedProtocol, of.DidResume, ""}
}

func exchange(stream io.ReadWriteCloser) error {
	if _, err := stream.Write([]byte("ask")); err != nil {
		return err
	}
	_, err := io.ReadFull(stream, make([]byte, 6))
	return err
}

func answer(stream io.ReadWriteCloser) {
	if _, err := io.ReadFull(stream, make([]byte, 3)); err == nil {
		_, _ = stream.Write([]byte("answer"))
	}
	_, _ = io.Copy(io.Discard, stream)
	_ = stream.Close()
}

func serve(address string, made *tls.Config, certificate, key string) {
	made.Certificates = []tls.Certificate{must(tls.LoadX509KeyPair(certificate, key))}
	if *overQuic {
		listener := must(quic.ListenAddr(address, made, quicConfig()))
		fmt.Println(listener.Addr())
		go func() {
			for {
				connection, err := listener.Accept(context.Background())
				if err != nil {
					return
				}
				go func() {
					if stream, err := connection.AcceptStream(context.Background()); err == nil {
						answer(stream)
					}
				}()
			}
		}()
	} else {
		listener := must(tls.Listen("tcp", address, made))
		fmt.Println(listener.Addr())
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				go answer(connection)
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func overTCP(address string, made *tls.Config) State {
	plain := must(net.Dial("tcp", address))
	port := plain.LocalAddr().(*net.TCPAddr).Port
	connection := tls.Client(plain, made)
	err := connection.Handshake()
	if err == nil {
		err = exchange(connection)
	}
	_ = connection.Close()
	return state(port, connection.ConnectionState(), err)
}

func overUDP(address string, made *tls.Config) State {
	socket := must(net.ListenUDP("udp", nil))
	defer socket.Close()
	port := socket.LocalAddr().(*net.UDPAddr).Port
	server := must(net.ResolveUDPAddr("udp", address))
	connection, err := quic.Dial(context.Background(), socket, server, made, quicConfig())
	if err != nil {
		return state(port, tls.ConnectionState{}, err)
	}
	stream, err := connection.OpenStreamSync(context.Background())
	if err == nil {
		err = exchange(stream)
	}
	of := connection.ConnectionState().TLS
	_ = connection.CloseWithError(0, "")
	return state(port, of, err)
}

func main() {
	flag.Parse()
	arguments := flag.Args()
	made := config()
	if arguments[0] == "serve" {
		serve(arguments[1], made, arguments[2], arguments[3])
		return
	}
	made.RootCAs = x509.NewCertPool()
	made.RootCAs.AppendCertsFromPEM(must(os.ReadFile(arguments[2])))
	for range must(strconv.Atoi(arguments[3])) {
		connect := overTCP
		if *overQuic {
			connect = overUDP
		}
		_ = json.NewEncoder(os.Stdout).Encode(connect(arguments[1], made))
	}
}

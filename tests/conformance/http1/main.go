// Reads requests as servers of Go do, or a response as its client does, and says what they understood.
//
// In: what a client says on a connection before it closes its side, after its length (4 bytes, big-endian), one after another;
// for "net/http client" what a server says, after a byte that is 1 if the request was HEAD.
// Out: one line of JSON for each, as Reading or Answer has it. The argument names the server, net/http or fasthttp, or the client.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// Reading is what a server understood of a connection.
type Reading struct {
	// Those that were whole and accepted.
	Requests []Request `json:"requests"`
	// The status line of an answer that is the server's own.
	Refused string `json:"refused"`
}

// Request is one of them. Bytes are written in base64.
type Request struct {
	Method   []byte     `json:"method"`
	Target   []byte     `json:"target"`
	Host     []byte     `json:"host"`
	Fields   [][][]byte `json:"fields"`
	Body     []byte     `json:"body"`
	Trailers [][][]byte `json:"trailers"`
}

// Answer is what a client understood of what a server says.
type Answer struct {
	// The interim ones and, unless it was refused, the final one.
	Responses []Response `json:"responses"`
	// Of the final one.
	Body     []byte     `json:"body"`
	Trailers [][][]byte `json:"trailers"`
	// Bytes after its end.
	Left int `json:"left"`
	// Whether the connection ends with it.
	Closes bool `json:"closes"`
	// What is wrong with it.
	Refused string `json:"refused"`
}

// Response is the head of one.
type Response struct {
	Status int        `json:"status"`
	Fields [][][]byte `json:"fields"`
}

func main() {
	var read func([]byte) any
	switch os.Args[1] {
	case "net/http":
		read = netHTTP()
	case "fasthttp":
		read = fastHTTP()
	case "net/http client":
		read = netHTTPClient
	default:
		log.Fatalf("no server is named %s", os.Args[1])
	}
	input, output := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var length uint32
		if err := binary.Read(input, binary.BigEndian, &length); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		said := make([]byte, length)
		if _, err := io.ReadFull(input, said); err != nil {
			log.Fatal(err)
		}
		if err := output.Encode(read(said)); err != nil {
			log.Fatal(err)
		}
	}
}

// finish looks for an answer of the server's own: those of the handlers here have status 200.
func finish(reading Reading, answers []byte) Reading {
	for _, line := range strings.Split(string(answers), "\r\n") {
		isAnswer := strings.HasPrefix(line, "HTTP/1.")
		if isAnswer && !strings.HasSuffix(line, " 200 OK") && !strings.HasSuffix(line, " 100 Continue") {
			reading.Refused = line
		}
	}
	return reading
}

// netHTTP is the standard library's server.
func netHTTP() func([]byte) any {
	var reading Reading
	listener := &listener{connections: make(chan net.Conn)}
	handler := func(_ http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			reading.Refused = err.Error()
			return
		}
		reading.Requests = append(reading.Requests, Request{
			Method: []byte(request.Method), Target: []byte(request.RequestURI), Host: []byte(request.Host),
			Fields: pairs(request.Header), Body: body, Trailers: pairs(request.Trailer),
		})
	}
	server := &http.Server{
		Handler:                      http.HandlerFunc(handler),
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
	}
	go func() { log.Fatal(server.Serve(listener)) }()
	return func(said []byte) any {
		reading = Reading{}
		client := newClient(said)
		listener.connections <- client
		<-client.closed
		return finish(reading, client.heard.Bytes())
	}
}

func pairs(header http.Header) [][][]byte {
	var fields [][][]byte
	for name, values := range header {
		for _, value := range values {
			fields = append(fields, [][]byte{[]byte(name), []byte(value)})
		}
	}
	return fields
}

// netHTTPClient is how the standard library's client reads.
func netHTTPClient(said []byte) any {
	request := &http.Request{Method: http.MethodGet}
	if said[0] == 1 {
		request.Method = http.MethodHead
	}
	input := bufio.NewReader(bytes.NewReader(said[1:]))
	var answer Answer
	for {
		response, err := http.ReadResponse(input, request)
		if err != nil {
			answer.Refused = err.Error()
			return answer
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			answer.Refused = err.Error()
			return answer
		}
		answer.Responses = append(answer.Responses, Response{response.StatusCode, pairs(response.Header)})
		// As its transport goes on: 101 is final.
		if response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			answer.Body, answer.Trailers, answer.Closes = body, pairs(response.Trailer), response.Close
			left, _ := io.ReadAll(input)
			answer.Left = len(left)
			return answer
		}
	}
}

// fastHTTP is a server with parsers of its own.
func fastHTTP() func([]byte) any {
	var reading Reading
	server := &fasthttp.Server{
		Handler: func(context *fasthttp.RequestCtx) {
			header := &context.Request.Header
			request := Request{
				Method: bytes.Clone(header.Method()), Target: bytes.Clone(header.RequestURI()),
				Host: bytes.Clone(header.Host()), Body: bytes.Clone(context.Request.Body()),
			}
			for name, value := range header.All() {
				request.Fields = append(request.Fields, [][]byte{bytes.Clone(name), bytes.Clone(value)})
			}
			for _, name := range header.PeekTrailerKeys() {
				for _, value := range header.PeekAll(string(name)) {
					request.Trailers = append(request.Trailers, [][]byte{bytes.Clone(name), bytes.Clone(value)})
				}
			}
			reading.Requests = append(reading.Requests, request)
		},
		DisableHeaderNamesNormalizing: true,
		Logger:                        log.New(io.Discard, "", 0),
	}
	return func(said []byte) any {
		reading = Reading{}
		client := newClient(said)
		if err := server.ServeConn(client); err != nil {
			reading.Refused = err.Error()
		}
		return finish(reading, client.heard.Bytes())
	}
}

// client says what it has to say, closes its side, and keeps what it hears.
type client struct {
	said   *bytes.Reader
	heard  bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func newClient(said []byte) *client {
	return &client{said: bytes.NewReader(said), closed: make(chan struct{})}
}

func (client *client) Read(room []byte) (int, error)  { return client.said.Read(room) }
func (client *client) Write(said []byte) (int, error) { return client.heard.Write(said) }
func (client *client) Close() error                   { client.once.Do(func() { close(client.closed) }); return nil }

// CloseWrite is where net/http has said all that it will say; it then lingers.
func (client *client) CloseWrite() error { return client.Close() }

func (client *client) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (client *client) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (client *client) SetDeadline(time.Time) error      { return nil }
func (client *client) SetReadDeadline(time.Time) error  { return nil }
func (client *client) SetWriteDeadline(time.Time) error { return nil }

// listener accepts the connections that it is handed.
type listener struct{ connections chan net.Conn }

func (listener *listener) Accept() (net.Conn, error) { return <-listener.connections, nil }
func (listener *listener) Close() error              { return nil }
func (listener *listener) Addr() net.Addr            { return &net.TCPAddr{} }

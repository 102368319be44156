// A sink that speaks as much of S3 over TLS as an upload needs: it verifies the checksums of what it is sent and keeps
// nothing. Compiled and without a disk, so that a benchmark of clients measures the clients.
//
// Usage: sink CERTIFICATE KEY; it prints its port. GET tells how many
// bytes came with the right checksum.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"

	"encoding/xml"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/crc64nvme"
)

const (
	crc32Header     = "X-Amz-Checksum-Crc32"
	crc64Header     = "X-Amz-Checksum-Crc64nvme"
	readBufferBytes = 1 << 18
)

var buffers = sync.Pool{New: func() any { return make([]byte, readBufferBytes) }}

type sink struct {
	uploads  atomic.Int64
	verified atomic.Int64
	guard    sync.Mutex
	sizes    map[string]int64
}

func (s *sink) add(name string, size int64) {
	s.guard.Lock()
	defer s.guard.Unlock()
	s.sizes[name] += size
}

// take removes a size and tells it.
func (s *sink) take(name string) int64 {
	s.guard.Lock()
	defer s.guard.Unlock()
	size := s.sizes[name]
	delete(s.sizes, name)
	return size
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	// An empty map: no HTTP/2, which no S3 speaks.
	server := &http.Server{Handler: &sink{sizes: map[string]int64{}}, ErrorLog: log.New(io.Discard, "", 0)}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	log.Fatal(server.ServeTLS(listener, os.Args[1], os.Args[2]))
}

func (s *sink) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	switch {
	case request.Method == http.MethodPut:
		s.put(answer, request)
	case request.Method == http.MethodPost && query.Has("uploads"):
		algorithm, kind := request.Header.Get("X-Amz-Checksum-Algorithm"), request.Header.Get("X-Amz-Checksum-Type")
		answer.Header().Set("X-Amz-Checksum-Algorithm", algorithm)
		answer.Header().Set("X-Amz-Checksum-Type", kind)
		write(answer, "InitiateMultipartUploadResult", fmt.Sprintf("<UploadId>u%d</UploadId>", s.uploads.Add(1)))
	case request.Method == http.MethodPost:
		io.Copy(io.Discard, request.Body)
		s.take(request.URL.Path)
		s.add(request.URL.Path, s.take(query.Get("uploadId")))
		write(answer, "CompleteMultipartUploadResult", "<ETag>\"sink-1\"</ETag>")
	case request.Method == http.MethodHead:
		s.head(answer, request)
	case query.Has("uploads"):
		write(answer, "ListMultipartUploadsResult", "")
	default:
		fmt.Fprint(answer, s.verified.Load())
	}
}

func (s *sink) head(answer http.ResponseWriter, request *http.Request) {
	s.guard.Lock()
	size, found := s.sizes[request.URL.Path]
	s.guard.Unlock()
	if !found {
		answer.WriteHeader(http.StatusNotFound)
		return
	}
	answer.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	answer.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	answer.Header().Set("ETag", fmt.Sprintf(`"sink-%d"`, s.uploads.Load()))
}

func (s *sink) put(answer http.ResponseWriter, request *http.Request) {
	var body io.Reader = request.Body
	trailer := http.Header{}
	if strings.HasPrefix(request.Header.Get("X-Amz-Content-Sha256"), "STREAMING-UNSIGNED-PAYLOAD-TRAILER") {
		body = &chunks{source: bufio.NewReaderSize(request.Body, readBufferBytes), trailer: trailer}
	}
	// Without either header the sum comes behind the content, and is CRC-32.
	name, sum := crc32Header, hash.Hash(crc32.NewIEEE())
	if request.Header.Get(crc64Header) != "" {
		name, sum = crc64Header, crc64nvme.New()
	}
	buffer := buffers.Get().([]byte)
	defer buffers.Put(buffer)
	count, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{body}, buffer)
	if err != nil {
		refuse(answer, "IncompleteBody", err.Error())
		return
	}
	found := base64.StdEncoding.EncodeToString(sum.Sum(nil))
	if wanted := request.Header.Get(name) + trailer.Get(name); wanted != found {
		refuse(answer, "BadDigest", wanted)
		return
	}
	s.verified.Add(count)
	answer.Header().Set(name, found)
	target := request.URL.Query().Get("uploadId")
	if target == "" {
		target = request.URL.Path
		s.take(target)
	}
	s.add(target, count)
	answer.Header().Set("ETag", `"sink"`)
}

func write(answer http.ResponseWriter, name, inner string) {
	answer.Header().Set("Content-Type", "application/xml")
	fmt.Fprintf(answer, "%s<%s>%s</%s>", xml.Header, name, inner, name)
}

func refuse(answer http.ResponseWriter, code, message string) {
	answer.WriteHeader(http.StatusBadRequest)
	write(answer, "Error", fmt.Sprintf("<Code>%s</Code><Message>%s</Message>", code, message))
}

// chunks decodes the aws-chunked encoding: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
type chunks struct {
	source  *bufio.Reader
	trailer http.Header
	left    int64
	ended   bool
}

func (c *chunks) Read(into []byte) (int, error) {
	if c.ended {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		size, _, _ := strings.Cut(line, ";")
		if c.left, err = strconv.ParseInt(size, 16, 64); err != nil {
			return 0, err
		}
		if c.left == 0 {
			return 0, c.end()
		}
	}
	count, err := c.source.Read(into[:min(int64(len(into)), c.left)])
	c.left -= int64(count)
	if c.left == 0 && err == nil {
		_, err = c.line()
	}
	return count, err
}

func (c *chunks) end() error {
	c.ended = true
	for {
		line, err := c.line()
		if err != nil || line == "" {
			return io.EOF
		}
		name, value, _ := strings.Cut(line, ":")
		c.trailer.Set(name, strings.TrimSpace(value))
	}
}

func (c *chunks) line() (string, error) {
	line, err := c.source.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

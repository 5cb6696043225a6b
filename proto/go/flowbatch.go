// Package flowbatch reads FlowBatch v1, the message Wirespan's services exchange over NATS. The spec is proto/README.md.
package flowbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
)

// Schema is the only schema this package reads.
const Schema = "wirespan.flow.v1"

// NoIndex is the value of an index column that points at nothing.
const NoIndex = math.MaxUint32

// ErrNoBatch is wrapped by every error about bytes that are no FlowBatch.
var ErrNoBatch = errors.New("not a FlowBatch")

// Number is what a column's values can be: one of these per row, or a fixed count of them.
type Number interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64
}

// Entity is one workload, node or service: its OpenTelemetry entity type and attributes.
type Entity struct {
	Type       string         `msgpack:"type"`
	Attributes map[string]any `msgpack:"attributes"`
}

// Batch is the flow records that one node collected in one interval, as columns of Count rows.
// Entities is nil until the batch is enriched.
type Batch struct {
	Schema     string              `msgpack:"schema"`
	Node       string              `msgpack:"node"`
	Epoch      string              `msgpack:"epoch"`
	Sequence   uint64              `msgpack:"sequence"`
	Count      int                 `msgpack:"count"`
	Interval   [2]uint64           `msgpack:"interval"`
	Columns    map[string][]byte   `msgpack:"columns"`
	Types      map[string]string   `msgpack:"types"`
	Containers []map[string]string `msgpack:"containers"`
	Names      []string            `msgpack:"names"`
	Counters   map[string]int64    `msgpack:"counters"`
	Entities   []Entity            `msgpack:"entities"`
}

// Read returns the batch in a message. Every column it holds has a type this package knows and as many bytes as its rows need.
func Read(message []byte) (*Batch, error) {
	var batch Batch
	if err := msgpack.Unmarshal(message, &batch); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNoBatch, err)
	}
	if batch.Schema != Schema {
		return nil, fmt.Errorf("%w: schema %q, this reader knows %q", ErrNoBatch, batch.Schema, Schema)
	}
	for name, data := range batch.Columns {
		kind, err := ParseType(batch.Types[name])
		if err != nil {
			return nil, fmt.Errorf("%w: column %q: %v", ErrNoBatch, name, err)
		}
		if batch.Count < 0 || batch.Count > len(message) || len(data) != batch.Count*kind.Width*kind.Size {
			return nil, fmt.Errorf("%w: column %q has %d bytes for %d rows of %s", ErrNoBatch, name, len(data), batch.Count, batch.Types[name])
		}
	}
	return &batch, nil
}

// Type is a numpy type string taken apart: `(20,)<u4` is kind 'u', 4 bytes, 20 values a row.
type Type struct {
	Kind  byte
	Size  int
	Width int
}

// ParseType reads the type strings that the spec allows.
func ParseType(text string) (Type, error) {
	result, scalar := Type{Width: 1}, text
	if strings.HasPrefix(text, "(") {
		width, rest, found := strings.Cut(text[1:], ",)")
		number, err := strconv.Atoi(width)
		if !found || err != nil || number < 1 || number > 999 {
			return result, fmt.Errorf("type %q", text)
		}
		result.Width, scalar = number, rest
	}
	if len(scalar) < 3 {
		return result, fmt.Errorf("type %q", text)
	}
	size, err := strconv.Atoi(scalar[2:])
	result.Kind, result.Size = scalar[1], size
	switch known := scalar[:2]; {
	case err != nil:
	case known == "|u" || known == "|i":
		if size == 1 {
			return result, nil
		}
	case known == "|V" && size >= 1 && size <= 99:
		return result, nil
	case known == "<u" || known == "<i":
		if size == 2 || size == 4 || size == 8 {
			return result, nil
		}
	case known == "<f" && (size == 4 || size == 8):
		return result, nil
	}
	return result, fmt.Errorf("type %q", text)
}

// Type returns the type of a column, and whether the batch carries it.
func (b *Batch) Type(name string) (Type, bool) {
	text, found := b.Types[name]
	kind, err := ParseType(text)
	return kind, found && err == nil && b.Columns[name] != nil
}

// Values returns a column of numbers: Count rows, each of as many values as its type says, one after the other. A column that
// the batch leaves out is its default everywhere: 0, or NoIndex for the index columns. Values are widened to T as they
// are; asking for a T too narrow for the column's type is an error, and so is a column of raw bytes.
func Values[T Number](b *Batch, name string) ([]T, error) {
	kind, found := b.Type(name)
	if !found {
		values := make([]T, b.Count)
		if isIndex(name) {
			none := uint32(NoIndex)
			for row := range values {
				values[row] = T(none)
			}
		}
		return values, nil
	}
	wanted := typeOf[T]()
	same := kind.Kind == wanted.Kind && kind.Size <= wanted.Size
	widened := kind.Kind == 'u' && wanted.Kind == 'i' && kind.Size < wanted.Size
	if !same && !widened {
		return nil, fmt.Errorf("column %q is %s, which does not fit %d bytes of kind %q", name, b.Types[name], wanted.Size, wanted.Kind)
	}
	data := b.Columns[name]
	values := make([]T, 0, len(data)/kind.Size)
	for ; len(data) > 0; data = data[kind.Size:] {
		values = append(values, number[T](kind, data))
	}
	return values, nil
}

// Addresses returns a column of addresses; IPv4 is unmapped. A column that the batch leaves out is `::` everywhere.
func (b *Batch) Addresses(name string) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, b.Count)
	kind, found := b.Type(name)
	if found && (kind.Kind != 'V' || kind.Size != 16 || kind.Width != 1) {
		return nil, fmt.Errorf("column %q is %s, not an address", name, b.Types[name])
	}
	for row := range addresses {
		var packed [16]byte
		if found {
			copy(packed[:], b.Columns[name][16*row:])
		}
		addresses[row] = netip.AddrFrom16(packed).Unmap()
	}
	return addresses, nil
}

func isIndex(name string) bool {
	switch name {
	case "local_container", "file", "dns_first_name", "dns_slowest_name", "remote_name", "tls_server_name", "tls_protocol", "tls_offered_protocols", "local_entity", "remote_entity", "local_service", "remote_service":
		return true
	}
	return false
}

func typeOf[T Number]() Type {
	switch any(T(0)).(type) {
	case float32:
		return Type{'f', 4, 1}
	case float64:
		return Type{'f', 8, 1}
	case int8, int16, int32, int64:
		return Type{'i', binary.Size(T(0)), 1}
	}
	return Type{'u', binary.Size(T(0)), 1}
}

func number[T Number](kind Type, data []byte) T {
	var bits uint64
	for place := range kind.Size {
		bits |= uint64(data[place]) << (8 * place)
	}
	switch {
	case kind.Kind == 'f' && kind.Size == 4:
		return T(math.Float32frombits(uint32(bits)))
	case kind.Kind == 'f':
		return T(math.Float64frombits(bits))
	case kind.Kind == 'i':
		unused := 64 - 8*kind.Size
		return T(int64(bits<<unused) >> unused)
	}
	return T(bits)
}

// Command flowdump reads one FlowBatch on stdin and prints a JSON object per record, as `wirespan decode` does.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"

	"wirespan/flowbatch"
)

var transports = names{
	1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6",
	89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite",
}

var resolutions = names{0: "none", 1: "resolved", 2: "external", 3: "unresolved", 4: "unknown"}

var verdicts = names{
	0: "unknown", 1: "ok", 2: "server_slow", 3: "client_slow", 4: "path_slow", 5: "path_loss", 6: "accept_queue",
	7: "refused", 8: "unreachable", 9: "reset_by_server", 10: "reset_by_client", 11: "zero_window", 12: "mtu",
	13: "name_resolution", 14: "path_or_server",
}

var verdictMeasures = names{
	0: "none", 1: "outcome", 2: "closed_by", 3: "syn_repeats", 4: "syn_ack_repeats", 5: "handshake_latency",
	6: "connect_time", 7: "rtt_min", 8: "retransmits", 9: "reverse_retransmits", 10: "retransmit_bytes",
	11: "reverse_retransmit_bytes", 12: "zero_window", 13: "reverse_zero_window", 14: "response_time_max",
	15: "response_time", 16: "request_transfer_time", 17: "exchange_end", 18: "request_unanswered",
	19: "question_repeats", 20: "dns_servfail", 21: "dns_unanswered", 22: "icmp_errors",
}

// raw and enriched are the columns of the schema and how each is shown.
var raw = map[string]show{
	"flow_id": plain, "record": plain,
	"reason": names{
		1: "end_of_flow", 2: "idle_timeout", 3: "active_timeout", 4: "shutdown", 5: "table_pressure", 6: "exchange",
	}.show,
	"observer":      names{1: "socket", 2: "capture"}.show,
	"role":          names{0: "unknown", 1: "client", 2: "server"}.show,
	"role_source":   names{0: "unknown", 1: "handshake", 2: "listener", 3: "content", 4: "ports"}.show,
	"transport":     transports.show,
	"local_address": address, "remote_address": address, "local_port": plain, "remote_port": plain,
	"icmp_type": plain, "icmp_code": plain, "local_container": container,
	"start_unix_ns": plain, "end_unix_ns": plain, "flow_start_unix_ns": plain,
	"syn_unix_ns": plain, "syn_ack_unix_ns": plain, "handshake_ack_unix_ns": plain,
	"isn_seen": plain, "local_isn": plain, "remote_isn": plain, "syn_repeats": plain, "syn_ack_repeats": plain,
	"outcome": names{
		0: "unknown", 1: "half_open", 2: "established", 3: "refused", 4: "timeout", 5: "reset", 6: "closed",
	}.show,
	"closed_by":    names{0: "none", 1: "local", 2: "remote"}.show,
	"cut_short":    plain,
	"tx_tcp_flags": plain, "rx_tcp_flags": plain,
	"tx_bytes": plain, "rx_bytes": plain, "tx_packets": plain, "rx_packets": plain,
	"tx_payload_bytes": plain, "rx_payload_bytes": plain,
	"tx_bytes_total": plain, "rx_bytes_total": plain, "tx_packets_total": plain, "rx_packets_total": plain,
	"tx_retransmits": plain, "rx_retransmits": plain,
	"responses": plain, "response_time_sum_ns": plain, "response_time_max_ns": plain,
	"response_time_histogram": counts(20),
	"tx_retransmit_bytes":     plain, "rx_retransmit_bytes": plain,
	"tx_spurious_retransmits": plain, "rx_spurious_retransmits": plain,
	"tx_out_of_order": plain, "rx_out_of_order": plain, "tx_duplicate_acks": plain, "rx_duplicate_acks": plain,
	"tx_zero_windows": plain, "rx_zero_windows": plain, "tx_window_full": plain, "rx_window_full": plain,
	"tx_keep_alives": plain, "rx_keep_alives": plain, "tx_zero_window_probes": plain, "rx_zero_window_probes": plain,
	"tx_fins": plain, "rx_fins": plain,
	"tx_resets": plain, "rx_resets": plain, "tx_rtt_samples": plain, "rx_rtt_samples": plain,
	"tx_rtt_sum_ns": plain, "rx_rtt_sum_ns": plain, "tx_rtt_min_ns": plain, "rx_rtt_min_ns": plain,
	"tx_rtt_max_ns": plain, "rx_rtt_max_ns": plain, "tx_ecn_ce": plain, "rx_ecn_ce": plain,
	"tx_traffic_class": plain, "rx_traffic_class": plain, "tx_hop_limit": plain, "rx_hop_limit": plain,
	"request_waits": plain, "request_transfer_sum_ns": plain, "request_transfer_max_ns": plain,
	"response_transfer_sum_ns": plain, "response_transfer_max_ns": plain,
	"icmp_errors": plain, "icmp_error_type": plain, "icmp_error_code": plain,
	"questions": plain, "question_repeats": plain,
}

// socket is what only a socket knows: shown where the batch has any of it.
var socket = map[string]show{
	"smoothed_rtt_ns": plain, "min_rtt_ns": plain, "socket_retransmits": plain, "lost_segments": plain, "congestion_window": plain,
}

// nat is where packets of a socket went that were translated: shown where the batch has any of it.
var nat = map[string]show{
	"remote_nat_address": address, "remote_nat_port": plain,
}

// lookups is what was looked up: shown where the batch has any of it.
var lookups = map[string]show{
	"dns_first_name": domain, "dns_first_type": plain, "dns_first_code": plain, "dns_first_answers": plain,
	"dns_first_time_ns": plain, "dns_first_repeats": plain, "dns_slowest_name": domain, "dns_slowest_type": plain, "dns_slowest_code": plain,
	"dns_slowest_answers": plain, "dns_slowest_time_ns": plain, "dns_slowest_repeats": plain, "dns_codes": counts(8),
	"remote_name": domain,
}

// handshakes is what was seen of TLS handshakes: shown where the batch has any of it.
var handshakes = map[string]show{
	"tls_version": plain, "tls_cipher": plain, "tls_flags": plain, "tls_alert": plain, "tls_handshake_time_ns": plain,
	"tls_server_name": domain, "tls_protocol": domain, "tls_offered_protocols": domain,
}

// file is what only a capture file knows: shown where the batch has any of it.
var file = map[string]show{
	"tunnel":       names{0: "none", 1: "vxlan", 2: "geneve", 3: "gre", 4: "ipip", 5: "gtpu"}.show,
	"tunnel_depth": plain, "local_tunnel_address": address, "remote_tunnel_address": address,
	"tx_tunnel_id": plain, "rx_tunnel_id": plain, "tx_tunnel_bytes_total": plain, "rx_tunnel_bytes_total": plain,
	"tx_fragments": plain, "rx_fragments": plain, "tx_overlapping_fragments": plain, "rx_overlapping_fragments": plain,
	"tx_incomplete_datagrams": plain, "rx_incomplete_datagrams": plain,
	"file": plain, "tx_copies": plain, "rx_copies": plain, "translated": plain,
}

// exchange is what only a record of one request has: shown where the batch has any of it.
var exchange = map[string]show{
	"trace_id": bytesOf(16), "parent_span_id": bytesOf(8), "trace_flags": plain,
	"exchange_end": names{
		0: "none", 1: "next_request", 2: "closed", 3: "reset", 4: "idle_timeout", 5: "active_timeout", 6: "shutdown",
		7: "switched", 8: "stream", 9: "stream_reset",
	}.show,
	"request_first_unix_ns": plain, "request_last_unix_ns": plain,
	"response_first_unix_ns": plain, "response_last_unix_ns": plain,
	"request_bytes": plain, "response_bytes": plain, "request_retransmits": plain, "response_retransmits": plain,
	"exchange_shared": plain, "http_status": plain, "grpc_status": plain,
	"exchange_matched": names{0: "context", 1: "span"}.show,
	"exchange_series":  plain, "exchange_series_wait_ns": plain,
	"http_method": names{
		0: "unknown", 1: "get", 2: "post", 3: "put", 4: "delete", 5: "head", 6: "options", 7: "patch", 8: "connect",
		9: "trace", 10: "other",
	}.show,
}

var enriched = map[string]show{
	"local_entity": entity, "remote_entity": entity, "local_service": entity, "remote_service": entity,
	"local_resolution": resolutions.show, "remote_resolution": resolutions.show,
}

// setUp is what the first request of a connection waited for: shown where the batch has any of it.
var setUp = map[string]show{
	"tls_handshake_unix_ns": plain, "lookup_unix_ns": plain, "lookup_flow_start_unix_ns": plain,
	"lookup_local_address": address, "lookup_remote_address": address, "lookup_local_port": plain, "lookup_remote_port": plain,
}

// verdict is what somebody has judged: shown where the batch has any of it.
var verdict = map[string]show{
	"verdict": verdicts.show, "verdict_measure": verdictMeasures.show,
}

// A show returns what stands for each row of a column in the output.
type show func(batch *flowbatch.Batch, name string) ([]any, error)

type names map[uint64]string

func (n names) show(batch *flowbatch.Batch, name string) ([]any, error) {
	return each(batch, name, func(number uint64) any {
		if text, found := n[number]; found {
			return text
		}
		return number
	})
}

func plain(batch *flowbatch.Batch, name string) ([]any, error) {
	return each(batch, name, func(number uint64) any { return number })
}

func container(batch *flowbatch.Batch, name string) ([]any, error) {
	return pointedAt(batch, name, len(batch.Containers), func(row uint64) any { return batch.Containers[row] })
}

func entity(batch *flowbatch.Batch, name string) ([]any, error) {
	return pointedAt(batch, name, len(batch.Entities), func(row uint64) any {
		shown := map[string]any{"type": batch.Entities[row].Type}
		for key, value := range batch.Entities[row].Attributes {
			shown[key] = finite(value)
		}
		return shown
	})
}

func pointedAt(batch *flowbatch.Batch, name string, size int, row func(uint64) any) ([]any, error) {
	past := false
	shown, err := each(batch, name, func(index uint64) any {
		if index == flowbatch.NoIndex {
			return nil
		}
		if index >= uint64(size) {
			past = true
			return nil
		}
		return row(index)
	})
	if past {
		return nil, fmt.Errorf("column %q points past its table of %d", name, size)
	}
	return shown, err
}

func address(batch *flowbatch.Batch, name string) ([]any, error) {
	addresses, err := batch.Addresses(name)
	shown := make([]any, len(addresses))
	for row, found := range addresses {
		shown[row] = found.String()
	}
	return shown, err
}

func domain(batch *flowbatch.Batch, name string) ([]any, error) {
	return pointedAt(batch, name, len(batch.Names), func(row uint64) any { return batch.Names[row] })
}

// counts shows a column of so many numbers a row.
func counts(width int) show {
	return func(batch *flowbatch.Batch, name string) ([]any, error) {
		if _, found := batch.Type(name); found {
			return unknown(batch, name)
		}
		shown := make([]any, batch.Count)
		for row := range shown {
			shown[row] = make([]int, width)
		}
		return shown, nil
	}
}

// bytesOf shows a column of so many raw bytes a row.
func bytesOf(size int) show {
	return func(batch *flowbatch.Batch, name string) ([]any, error) {
		if _, found := batch.Type(name); found {
			return unknown(batch, name)
		}
		shown := make([]any, batch.Count)
		for row := range shown {
			shown[row] = hex.EncodeToString(make([]byte, size))
		}
		return shown, nil
	}
}

func each(batch *flowbatch.Batch, name string, value func(uint64) any) ([]any, error) {
	numbers, err := flowbatch.Values[uint64](batch, name)
	shown := make([]any, len(numbers))
	for row, number := range numbers {
		shown[row] = value(number)
	}
	return shown, err
}

// unknown shows a column by its type alone, as a schema newer than this program may bring.
func unknown(batch *flowbatch.Batch, name string) ([]any, error) {
	kind, _ := batch.Type(name)
	var flat []any
	var err error
	switch kind.Kind {
	case 'u':
		flat, err = listed[uint64](batch, name)
	case 'i':
		flat, err = listed[int64](batch, name)
	case 'f':
		flat, err = listed[float64](batch, name)
	default:
		for data := batch.Columns[name]; len(data) > 0; data = data[kind.Size:] {
			flat = append(flat, hex.EncodeToString(data[:kind.Size]))
		}
	}
	if err != nil || kind.Width == 1 {
		return flat, err
	}
	shown := make([]any, batch.Count)
	for row := range shown {
		shown[row] = flat[row*kind.Width : (row+1)*kind.Width]
	}
	return shown, nil
}

func listed[T flowbatch.Number](batch *flowbatch.Batch, name string) ([]any, error) {
	values, err := flowbatch.Values[T](batch, name)
	shown := make([]any, len(values))
	for row, value := range values {
		shown[row] = finite(value)
	}
	return shown, err
}

// finite replaces what JSON cannot say by null.
func finite(value any) any {
	if number, isFloat := value.(float64); isFloat && (math.IsNaN(number) || math.IsInf(number, 0)) {
		return nil
	}
	return value
}

func dump(message []byte, output io.Writer) error {
	batch, err := flowbatch.Read(message)
	if err != nil {
		return err
	}
	shows := map[string]show{}
	for name := range batch.Columns {
		shows[name] = unknown
	}
	for name, known := range raw {
		shows[name] = known
	}
	for _, some := range []map[string]show{socket, nat, lookups, handshakes, file, exchange, setUp, verdict} {
		for name := range some {
			if _, found := batch.Columns[name]; found {
				maps.Copy(shows, some)
				break
			}
		}
	}
	for name, known := range enriched {
		delete(shows, name)
		if batch.Entities != nil {
			shows[name] = known
		}
	}
	columns := map[string][]any{}
	for name, how := range shows {
		if columns[name], err = how(batch, name); err != nil {
			return err
		}
	}
	encoder := json.NewEncoder(output)
	encoder.SetEscapeHTML(false)
	for row := range batch.Count {
		record := map[string]any{}
		for name, values := range columns {
			record[name] = values[row]
		}
		record["node"], record["epoch"], record["sequence"] = batch.Node, batch.Epoch, batch.Sequence
		if err := encoder.Encode(record); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	message, err := io.ReadAll(os.Stdin)
	output := bufio.NewWriter(os.Stdout)
	if err == nil {
		err = dump(message, output)
	}
	if flushed := output.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flowdump:", err)
		os.Exit(1)
	}
}

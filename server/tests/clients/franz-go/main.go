// franz-go: create TOPIC PARTITIONS | write TOPIC CODEC FILE | read TOPIC FROM
//
// The broker is $BOOTSTRAP. FILE holds `key TAB value` lines; `read` assigns every
// partition at offset FROM and prints `partition TAB offset TAB key TAB value`.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("create TOPIC PARTITIONS | write TOPIC CODEC FILE | read TOPIC FROM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch verb, topic := args[0], args[1]; verb {
	case "create":
		return create(ctx, topic, args[2])
	case "write":
		return write(ctx, topic, args[2], args[3])
	case "read":
		return read(ctx, topic, args[2])
	default:
		return fmt.Errorf("no such verb: %s", verb)
	}
}

func client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(os.Getenv("BOOTSTRAP")))...)
}

func create(ctx context.Context, topic, partitions string) error {
	count, err := strconv.ParseInt(partitions, 10, 32)
	if err != nil {
		return err
	}
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, int32(count), 1, nil, topic)
	return err
}

// write produces with franz-go's defaults: idempotent, acks=all.
func write(ctx context.Context, topic, codec, path string) error {
	compression, known := codecs[codec]
	if !known {
		return fmt.Errorf("no such codec: %s", codec)
	}
	cl, err := client(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(compression))
	if err != nil {
		return err
	}
	defer cl.Close()
	records, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	for line := range bytes.Lines(records) {
		key, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("\t"))
		cl.Produce(ctx, &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default: // the first error is enough
				}
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func read(ctx context.Context, topic, from string) error {
	start, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return err
	}
	seed, err := client()
	if err != nil {
		return err
	}
	ends, err := kadm.NewClient(seed).ListEndOffsets(ctx, topic)
	seed.Close()
	if err != nil {
		return err
	}
	assigned := map[int32]kgo.Offset{}
	unread := int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		assigned[end.Partition] = kgo.NewOffset().At(start)
		unread += max(0, end.Offset-start)
	})
	if err := ends.Error(); err != nil {
		return err
	}
	cl, err := client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))
	if err != nil {
		return err
	}
	defer cl.Close()
	out := bufio.NewWriter(os.Stdout)
	for unread > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			key := r.Key
			if key == nil {
				key = []byte("NULL")
			}
			fmt.Fprintf(out, "%d\t%d\t%s\t%s\n", r.Partition, r.Offset, key, r.Value)
			unread--
		})
	}
	return out.Flush()
}

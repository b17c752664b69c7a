// kafkajs: create TOPIC PARTITIONS | write TOPIC CODEC FILE
//
// The broker is $BOOTSTRAP. FILE holds `key TAB value` lines. There is no `read`:
// kafkajs consumes in groups only.
"use strict";

const fs = require("fs");
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");

// kafkajs ships gzip; the other codecs are plug-ins that its users bring.
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = () => {
  const lz4 = require("lz4-napi");
  return {
    compress: (encoder) => lz4.compressFrame(encoder.buffer),
    decompress: (buffer) => lz4.decompressFrame(buffer),
  };
};
CompressionCodecs[CompressionTypes.ZSTD] = () => {
  const codec = new Promise((resolve) =>
    require("zstd-codec").ZstdCodec.run((zstd) => resolve(new zstd.Simple())));
  return {
    compress: async (encoder) => Buffer.from((await codec).compress(encoder.buffer)),
    decompress: async (buffer) => Buffer.from((await codec).decompress(buffer)),
  };
};

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};
// Records a request: what a busy service would hand over at once.
const CHUNK = 2000;

const kafka = new Kafka({ brokers: [process.env.BOOTSTRAP], logLevel: logLevel.WARN });

async function create(topic, partitions) {
  const admin = kafka.admin();
  await admin.connect();
  const numPartitions = Number(partitions);
  const created = await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: 1 }] });
  await admin.disconnect();
  if (!created) throw new Error(`topic ${topic} was there already`);
}

async function write(topic, codec, path) {
  const messages = fs.readFileSync(path, "utf8").trimEnd().split("\n").map((line) => {
    const [key, value] = line.split("\t");
    return { key, value };
  });
  const producer = kafka.producer({ idempotent: true });
  await producer.connect();
  for (let at = 0; at < messages.length; at += CHUNK) {
    await producer.send({
      topic, acks: -1, compression: CODECS[codec], messages: messages.slice(at, at + CHUNK),
    });
  }
  await producer.disconnect();
}

const [verb, ...rest] = process.argv.slice(2);
({ create, write })[verb](...rest).catch((error) => {
  console.error(error);
  process.exit(1);
});

// NATS JetStream with file storage: a publish is confirmed when it is written; this server syncs now and then only.
"use strict";
const { AckPolicy, RetentionPolicy, StorageType, connect, nanos } = require("nats");

const STREAM = { name: "calls", subjects: ["calls"], storage: StorageType.File, retention: RetentionPolicy.Workqueue };
const CONSUMER = { durable_name: "worker", ack_policy: AckPolicy.Explicit, ack_wait: nanos(60_000) };

module.exports = async (port) => {
  const connection = await connect({ servers: `127.0.0.1:${port}` });
  const manager = await connection.jetstreamManager();
  await manager.streams.add(STREAM);
  const stream = connection.jetstream();
  return {
    put: (body) => stream.publish("calls", body, { timeout: 60_000 }),
    async take(post, concurrency) {
      await manager.consumers.add("calls", CONSUMER);
      const consumer = await stream.consumers.get("calls", "worker");
      const lane = async () => {
        const messages = await consumer.consume({ max_messages: 4 });
        for await (const message of messages) {
          await post(Buffer.from(message.data));
          message.ack();
        }
      };
      await Promise.all(Array.from({ length: concurrency }, lane));
    },
  };
};

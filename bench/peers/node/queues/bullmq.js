// BullMQ on Redis, which appends to its file and syncs it before it answers (appendfsync always).
"use strict";
const { Queue, Worker } = require("bullmq");

module.exports = async (port) => {
  const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
  const defaultJobOptions = { removeOnComplete: true, attempts: 1000, backoff: 1000 };
  let queue;
  return {
    async put(body) {
      queue ??= new Queue("calls", { connection, defaultJobOptions });
      await queue.add("call", body.toString());
    },
    async take(post, concurrency) {
      new Worker("calls", (job) => post(Buffer.from(job.data)), { connection, concurrency });
    },
  };
};

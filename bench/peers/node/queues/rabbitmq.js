// RabbitMQ with a quorum queue and publisher confirms: a confirm comes after the queue's log was synced.
"use strict";
const amqp = require("amqplib");

module.exports = async (port) => {
  const connection = await amqp.connect(`amqp://127.0.0.1:${port}`);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue("calls", { durable: true, arguments: { "x-queue-type": "quorum" } });
  return {
    put: (body) =>
      new Promise((resolve, reject) => {
        channel.sendToQueue("calls", body, { persistent: true }, (error) => (error ? reject(error) : resolve()));
      }),
    async take(post, concurrency) {
      await channel.prefetch(concurrency);
      await channel.consume("calls", async (message) => {
        await post(message.content);
        channel.ack(message);
      });
    },
  };
};

// A yardstick from Node: a Fastify route that asks rate-limiter-flexible about one fixed window.
// BENCH_REDIS is the path of the socket, BENCH_PER_HOUR how many requests a caller has, BENCH_PORT where to listen.
const fastify = require('fastify')();
const Redis = require('ioredis');
const { RateLimiterRedis } = require('rate-limiter-flexible');

// Commands of one turn of the event loop leave together, as ours do: the fastest that ioredis can.
const client = new Redis({ path: process.env.BENCH_REDIS, enableAutoPipelining: true });
const limiter = new RateLimiterRedis({
  storeClient: client,
  points: Number(process.env.BENCH_PER_HOUR),
  duration: 3600,
});

fastify.get('/check', async (request, reply) => {
  try {
    await limiter.consume(request.headers['x-api-key']);
    reply.code(200).send();
  } catch (refusal) {
    if (refusal instanceof Error) throw refusal;
    reply.code(429).send();
  }
  return reply;
});

fastify.listen({ host: '127.0.0.1', port: Number(process.env.BENCH_PORT) });
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));

// Fastify and node-postgres: the usual Node service.

import jwt from "@fastify/jwt";
import Fastify from "fastify";
import pg from "pg";

// Ids are bigint in the database. By default node-postgres returns them as strings.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const app = Fastify();

app.register(jwt, {
  secret: process.env.SECRET_KEY,
  // With its cache of verified tokens, because the service has one too.
  verify: { algorithms: ["HS256"], allowedIss: "accounts-and-posts", cache: true },
});

// node-postgres prepares a named statement, once per connection.
const statements = {
  post: "select id, title, content, user_id, date_posted from posts where id = $1",
  page: "select id, title, content, user_id, date_posted from posts where id > $1 order by id limit $2",
  postsOfUser: "select id, title, content, user_id, date_posted from posts where user_id = $1 order by id limit $2",
  owner: "select user_id from posts where id = $1",
  user: "select id, username, email from users where id = $1",
  insert: `insert into posts (title, content, user_id) values ($1, $2, $3)
    returning id, title, content, user_id, date_posted`,
  update: `update posts set title = coalesce($3, title), content = coalesce($4, content)
    where id = $1 and user_id = $2
    returning id, title, content, user_id, date_posted`,
};

async function query(name, ...values) {
  return (await pool.query({ name, text: statements[name], values })).rows;
}

function problem(statusCode, message) {
  return Object.assign(new Error(message), { statusCode });
}

async function authenticate(request) {
  await request.jwtVerify();
  [request.account] = await query("user", request.user.sub);
  if (!request.account) throw problem(401, "Could not validate credentials");
}

const integer = { type: "integer" };
const string = { type: "string" };
const title = { type: "string", minLength: 1, maxLength: 100 };
const content = { type: "string", minLength: 1 };

const user = { type: "object", properties: { id: integer, username: string, email: string } };
const post = {
  type: "object",
  properties: {
    id: integer,
    title: string,
    content: string,
    user_id: integer,
    date_posted: { type: "string", format: "date-time" },
  },
};
const posts = { type: "array", items: post };
const profile = { type: "object", properties: { ...user.properties, posts } };
const message = { type: "object", properties: { message: string } };

const params = { type: "object", properties: { id: { type: "integer", minimum: 1 } } };
const querystring = {
  type: "object",
  properties: {
    limit: { type: "integer", minimum: 1, maximum: 100, default: 50 },
    after: { type: "integer", minimum: 0, default: 0 },
  },
};
const postCreate = { type: "object", required: ["title", "content"], properties: { title, content } };
const postUpdate = { type: "object", properties: { title, content } };

app.get("/", { schema: { response: { 200: message } } }, async () => ({
  message: "Accounts and posts. The API page is at docs, relative to this address.",
}));

app.get("/posts/:id", { schema: { params, response: { 200: post } } }, async (request) => {
  const [found] = await query("post", request.params.id);
  if (!found) throw problem(404, "Post not found");
  return found;
});

app.get("/posts", { schema: { querystring, response: { 200: posts } } }, async (request) =>
  query("page", request.query.after, request.query.limit),
);

app.get("/users/me", { onRequest: authenticate, schema: { response: { 200: user } } }, async (request) => request.account);

app.get("/users/:id", { schema: { params, response: { 200: profile } } }, async (request) => {
  const { id } = request.params;
  const [[found], itsPosts] = await Promise.all([query("user", id), query("postsOfUser", id, 50)]);
  if (!found) throw problem(404, "User not found");
  return { ...found, posts: itsPosts };
});

app.post(
  "/posts",
  { onRequest: authenticate, schema: { body: postCreate, response: { 201: post } } },
  async (request, reply) => {
    const { title, content } = request.body;
    const [created] = await query("insert", title, content, request.account.id);
    reply.code(201).header("Location", `/posts/${created.id}`);
    return created;
  },
);

app.patch(
  "/posts/:id",
  { onRequest: authenticate, schema: { params, body: postUpdate, response: { 200: post } } },
  async (request) => {
    const { id } = request.params;
    const { title, content } = request.body;
    const [changed] = await query("update", id, request.account.id, title, content);
    if (changed) return changed;
    const [found] = await query("owner", id);
    throw found ? problem(403, "Only the owner can update this post") : problem(404, "Post not found");
  },
);

await app.listen({ host: "127.0.0.1", port: Number(process.env.PORT) });

// Go's net/http and pgx: the usual Go service without a framework.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// pgx prepares a statement at its first use on a connection.
const (
	selectPost        = `select id, title, content, user_id, date_posted from posts where id = $1`
	selectPage        = `select id, title, content, user_id, date_posted from posts where id > $1 order by id limit $2`
	selectPostsOfUser = `select id, title, content, user_id, date_posted from posts where user_id = $1 order by id limit $2`
	selectOwner       = `select user_id from posts where id = $1`
	selectUser        = `select id, username, email from users where id = $1`
	insertPost        = `insert into posts (title, content, user_id) values ($1, $2, $3)
		returning id, title, content, user_id, date_posted`
	updatePost = `update posts set title = coalesce($3, title), content = coalesce($4, content)
		where id = $1 and user_id = $2
		returning id, title, content, user_id, date_posted`
)

// timestamp is a time with microseconds, also if they are 0.
type timestamp struct{ time.Time }

func (t timestamp) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(make([]byte, 0, 32), `"2006-01-02T15:04:05.000000Z"`), nil
}

type post struct {
	ID         int64     `json:"id"`
	Title      string    `json:"title"`
	Content    string    `json:"content"`
	UserID     int64     `json:"user_id"`
	DatePosted timestamp `json:"date_posted"`
}

type user struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	Email    string `json:"email"`
}

type profile struct {
	user
	Posts []post `json:"posts"`
}

// fields is the body of POST and PATCH; a field that is absent is nil.
type fields struct {
	Title   *string `json:"title"`
	Content *string `json:"content"`
}

type message struct {
	Message string `json:"message"`
}

// problem is an error that the client gets.
type problem struct {
	status int
	Detail string `json:"detail"`
}

func (p problem) Error() string { return p.Detail }

var (
	notFound         = problem{http.StatusNotFound, "Not Found"}
	methodNotAllowed = problem{http.StatusMethodNotAllowed, "Method Not Allowed"}
	postNotFound     = problem{http.StatusNotFound, "Post not found"}
	userNotFound     = problem{http.StatusNotFound, "User not found"}
	notOwner         = problem{http.StatusForbidden, "Only the owner can update this post"}
	notAuthenticated = problem{http.StatusUnauthorized, "Not authenticated"}
	invalidToken     = problem{http.StatusUnauthorized, "Could not validate credentials"}
	invalidBody      = problem{http.StatusUnprocessableEntity, "title has 1 to 100 characters, content at least 1"}
	invalidPage      = problem{http.StatusUnprocessableEntity, "limit is 1 to 100, after is 0 or more"}
)

type service struct {
	pool   *pgxpool.Pool
	secret []byte
	parser *jwt.Parser
}

// handler returns what to encode. A response to POST has the status 201 and a Location.
type handler func(w http.ResponseWriter, r *http.Request) (any, error)

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	if r.Method == http.MethodPost {
		status = http.StatusCreated
	}
	content, err := h(w, r)
	if err != nil {
		var known problem
		if !errors.As(err, &known) {
			log.Print(err)
			known = problem{http.StatusInternalServerError, "Internal Server Error"}
		}
		if known.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		status, content = known.status, known
	}
	body, err := json.Marshal(content)
	if err != nil {
		log.Print(err)
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func greet(_ http.ResponseWriter, r *http.Request) (any, error) {
	if r.URL.Path != "/" {
		return nil, notFound
	}
	return message{"Accounts and posts. The API page is at docs, relative to this address."}, nil
}

func (s *service) posts(w http.ResponseWriter, r *http.Request) (any, error) {
	switch r.Method {
	case http.MethodGet:
		return s.listPosts(r)
	case http.MethodPost:
		return s.createPost(w, r)
	}
	return nil, methodNotAllowed
}

func (s *service) onePost(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/posts/"), 10, 64)
	if err != nil || id < 1 {
		return nil, postNotFound
	}
	switch r.Method {
	case http.MethodGet:
		return s.readPost(r.Context(), id)
	case http.MethodPatch:
		return s.editPost(r, id)
	}
	return nil, methodNotAllowed
}

func (s *service) listPosts(r *http.Request) (any, error) {
	query := r.URL.Query()
	limit, after := int64(50), int64(0)
	var err error
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.ParseInt(text, 10, 64); err != nil || limit < 1 || limit > 100 {
			return nil, invalidPage
		}
	}
	if text := query.Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return nil, invalidPage
		}
	}
	rows, err := s.pool.Query(r.Context(), selectPage, after, limit)
	if err != nil {
		return nil, err
	}
	return collect(rows, limit)
}

func (s *service) readPost(ctx context.Context, id int64) (any, error) {
	found, err := scan(s.pool.QueryRow(ctx, selectPost, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, postNotFound
	}
	return found, err
}

func (s *service) createPost(w http.ResponseWriter, r *http.Request) (any, error) {
	account, err := s.authenticate(r)
	if err != nil {
		return nil, err
	}
	body, err := decode(r)
	if err != nil {
		return nil, err
	}
	if body.Title == nil || body.Content == nil {
		return nil, invalidBody
	}
	created, err := scan(s.pool.QueryRow(r.Context(), insertPost, body.Title, body.Content, account.ID))
	if err != nil {
		return nil, err
	}
	w.Header().Set("Location", fmt.Sprintf("/posts/%d", created.ID))
	return created, nil
}

func (s *service) editPost(r *http.Request, id int64) (any, error) {
	account, err := s.authenticate(r)
	if err != nil {
		return nil, err
	}
	change, err := decode(r)
	if err != nil {
		return nil, err
	}
	changed, err := scan(s.pool.QueryRow(r.Context(), updatePost, id, account.ID, change.Title, change.Content))
	if !errors.Is(err, pgx.ErrNoRows) {
		return changed, err
	}
	var owner int64
	err = s.pool.QueryRow(r.Context(), selectOwner, id).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, postNotFound
	}
	if err != nil {
		return nil, err
	}
	return nil, notOwner
}

func (s *service) readOwnAccount(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.authenticate(r)
}

// readProfile sends both statements in one round trip.
func (s *service) readProfile(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/users/"), 10, 64)
	if err != nil || id < 1 {
		return nil, userNotFound
	}
	const limit = 50
	batch := &pgx.Batch{}
	batch.Queue(selectUser, id)
	batch.Queue(selectPostsOfUser, id, limit)
	results := s.pool.SendBatch(r.Context(), batch)
	defer results.Close()
	var found profile
	err = results.QueryRow().Scan(&found.ID, &found.Username, &found.Email)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, userNotFound
	}
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	found.Posts, err = collect(rows, limit)
	return found, err
}

func (s *service) authenticate(r *http.Request) (user, error) {
	var found user
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return found, notAuthenticated
	}
	var claims jwt.RegisteredClaims
	_, err := s.parser.ParseWithClaims(text, &claims, func(*jwt.Token) (any, error) { return s.secret, nil })
	if err != nil || !claims.VerifyIssuer("accounts-and-posts", true) {
		return found, invalidToken
	}
	id, err := strconv.ParseInt(claims.Subject, 10, 64)
	if err != nil {
		return found, invalidToken
	}
	err = s.pool.QueryRow(r.Context(), selectUser, id).Scan(&found.ID, &found.Username, &found.Email)
	if errors.Is(err, pgx.ErrNoRows) {
		return found, invalidToken
	}
	return found, err
}

func decode(r *http.Request) (fields, error) {
	var body fields
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return body, invalidBody
	}
	if body.Title != nil && (*body.Title == "" || utf8.RuneCountInString(*body.Title) > 100) {
		return body, invalidBody
	}
	if body.Content != nil && *body.Content == "" {
		return body, invalidBody
	}
	return body, nil
}

func collect(rows pgx.Rows, limit int64) ([]post, error) {
	defer rows.Close()
	page := make([]post, 0, limit)
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		page = append(page, one)
	}
	return page, rows.Err()
}

func scan(row pgx.Row) (post, error) {
	var p post
	err := row.Scan(&p.ID, &p.Title, &p.Content, &p.UserID, &p.DatePosted.Time)
	return p, err
}

func main() {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.MinConns, config.MaxConns = 10, 10
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	s := &service{
		pool:   pool,
		secret: []byte(os.Getenv("SECRET_KEY")),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"HS256"})),
	}
	http.Handle("/", handler(greet))
	http.Handle("/posts", handler(s.posts))
	http.Handle("/posts/", handler(s.onePost))
	http.Handle("/users/me", handler(s.readOwnAccount))
	http.Handle("/users/", handler(s.readProfile))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

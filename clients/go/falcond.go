// SPDX-License-Identifier: Apache-2.0

// Package falcond is a client of falcond over nng's protocol (mangos).
//
//	c, err := falcond.Dial("")
//	run, err := c.Generate(falcond.Text("Once upon a time"), falcond.Options{"n": 100})
//	for piece, err := range run.Pieces() { fmt.Print(piece.Text) }
//
// A session lives in the daemon; streaming is a cursor, so a daemon that restarts costs a pause and no token. Every operation and
// field: docs/PROTOCOL.md.
package falcond

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"strings"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
)

const (
	DefaultURL = "ipc:///run/falcond/falcond.sock"
	waitMS     = 30000 // of one `next`: the longest that falcond waits
)

// Error is what falcond refused.
type Error struct {
	Code    string `json:"code"` // as in docs/PROTOCOL.md, such as "no_session"
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Code + ": " + e.Message
	}
	return e.Code + ": " + e.Message + " (" + e.Hint + ")"
}

// Options are fields of an operation by their names in docs/PROTOCOL.md: n, temp, seed, stop, session ...
type Options map[string]any

// Message is one of a conversation's.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant"
	Content string `json:"content"`
}

// Prompt is what a run begins with: Text, IDs or Conversation; its zero value is none: Append goes on where the run ended.
type Prompt struct {
	field string
	value any
}

func Text(s string) Prompt             { return Prompt{"prompt", s} }
func IDs(ids []int32) Prompt           { return Prompt{"ids", ids} }
func Conversation(m ...Message) Prompt { return Prompt{"messages", m} }

// Client is a connection. Any number of goroutines may use one.
type Client struct {
	socket  mangos.Socket
	Timeout time.Duration // of one reply
}

// Dial connects to url; "": to $FALCOND_SOCKET, else the system's.
func Dial(url string) (*Client, error) {
	if url == "" {
		url = os.Getenv("FALCOND_SOCKET")
	}
	if url == "" {
		url = DefaultURL
	}
	s, err := req.NewSocket()
	if err != nil {
		return nil, err
	}
	// A falcond that restarted never saw the request: it is asked again, which is harmless.
	options := map[string]any{mangos.OptionReconnectTime: 10 * time.Millisecond, mangos.OptionMaxReconnectTime: 100 * time.Millisecond,
		mangos.OptionRetryTime: time.Second, mangos.OptionMaxRecvSize: 0}
	for name, value := range options {
		if err := s.SetOption(name, value); err != nil {
			s.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := s.DialOptions(url, nil); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return &Client{socket: s, Timeout: time.Minute}, nil
}

func (c *Client) Close() error { return c.socket.Close() }

// Call asks for any operation and fills reply, a pointer or nil. What falcond refuses is an *Error.
func (c *Client) Call(op string, fields Options, reply any) error {
	request := Options{"op": op}
	maps.Copy(request, fields)
	bytes, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, err := c.socket.OpenContext()
	if err != nil {
		return err
	}
	defer ctx.Close()
	for _, option := range []string{mangos.OptionRecvDeadline, mangos.OptionSendDeadline} {
		if err := ctx.SetOption(option, c.Timeout); err != nil {
			return err
		}
	}
	if err := ctx.Send(bytes); err != nil {
		return err
	}
	answer, err := ctx.Recv()
	if err != nil {
		return err
	}
	var refused struct{ Error *Error }
	if err := json.Unmarshal(answer, &refused); err != nil {
		return err
	}
	if refused.Error != nil {
		return refused.Error
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(answer, reply)
}

// LogProb is the natural logarithm of the model's own probability of a token; NaN where it is unknown.
type LogProb float64

func (p *LogProb) UnmarshalJSON(bytes []byte) error {
	if string(bytes) == "null" {
		*p = LogProb(math.NaN())
		return nil
	}
	return json.Unmarshal(bytes, (*float64)(p))
}

// Likely is a token and how likely it is.
type Likely struct {
	ID      int32
	LogProb LogProb
}

// UnmarshalJSON reads [id, logprob].
func (l *Likely) UnmarshalJSON(bytes []byte) error {
	return json.Unmarshal(bytes, &[2]any{&l.ID, &l.LogProb})
}

// Piece is what is new of a run. Finish is "" while it goes on. Of a run with the option "logprobs", LogProbs has one for each of IDs,
// and with it above 0 TopLogProbs the likeliest tokens in its place, in falling order.
type Piece struct {
	Text        string     `json:"text"`
	IDs         []int32    `json:"ids"`
	Cursor      int        `json:"cursor"`
	Finish      string     `json:"finish"`
	LogProbs    []LogProb  `json:"logprobs"`
	TopLogProbs [][]Likely `json:"top_logprobs"`
}

// Run is a run of a session.
type Run struct {
	client  *Client
	Session string `json:"session"`
	Cursor  int    `json:"cursor"`
	NGiven  int    `json:"n_given"`
	NCached int    `json:"n_cached"`
	Seed    uint64 `json:"seed"`
	Finish  string `json:"-"`
}

func requestID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// fields of a request: the prompt's, and more, which win over the options.
func fields(p Prompt, o Options, more Options) Options {
	all := Options{}
	if p.field != "" {
		all[p.field] = p.value
	}
	maps.Copy(all, o)
	maps.Copy(all, more)
	return all
}

// Generate starts a session.
func (c *Client) Generate(p Prompt, o Options) (*Run, error) {
	run := &Run{client: c}
	return run, c.Call("generate", fields(p, o, Options{"request_id": requestID()}), run)
}

// Pieces streams the run from where it was read last to its end.
func (r *Run) Pieces() iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		for r.Finish == "" {
			var piece Piece
			err := r.client.Call("next", Options{"session": r.Session, "cursor": r.Cursor, "wait_ms": waitMS}, &piece)
			if err == nil {
				r.Cursor, r.Finish = piece.Cursor, piece.Finish
			}
			if !yield(piece, err) || err != nil {
				return
			}
		}
	}
}

// Text is all that is still to come.
func (r *Run) Text() (string, error) {
	var all strings.Builder
	for piece, err := range r.Pieces() {
		if err != nil {
			return all.String(), err
		}
		all.WriteString(piece.Text)
	}
	return all.String(), nil
}

// Append goes on with more text, once the run is over; options that are left out stay as they were.
func (r *Run) Append(p Prompt, o Options) error {
	r.Finish = ""
	return r.client.Call("append", fields(p, o, Options{"session": r.Session, "at": r.Cursor}), r)
}

// Fork is a second session with the same tokens, sharing what is computed.
func (r *Run) Fork(o Options) (*Run, error) {
	twin := &Run{client: r.client}
	return twin, r.client.Call("fork", fields(Prompt{}, o, Options{"session": r.Session, "request_id": requestID()}), twin)
}

func (r *Run) Cancel() error { return r.client.Call("cancel", Options{"session": r.Session}, nil) }
func (r *Run) Drop() error   { return r.client.Call("drop", Options{"session": r.Session}, nil) }

// readWhole has op compute a whole text and gives take each reply; what it returns is the next cursor. The number of the text's tokens.
func (c *Client) readWhole(op string, p Prompt, o Options, take func(reply json.RawMessage) (int, error)) (int, error) {
	var made struct {
		Session string
		NTokens int `json:"n_tokens"`
	}
	if err := c.Call(op, fields(p, o, Options{"request_id": requestID()}), &made); err != nil {
		return 0, err
	}
	defer c.Call("drop", Options{"session": made.Session}, nil)
	for cursor := 0; ; {
		var reply json.RawMessage
		var end struct {
			Done   bool
			Finish string
		}
		err := c.Call("next", Options{"session": made.Session, "cursor": cursor, "wait_ms": waitMS}, &reply)
		if err == nil {
			err = json.Unmarshal(reply, &end)
		}
		if err == nil {
			cursor, err = take(reply)
		}
		if err == nil && end.Done && end.Finish != "length" {
			err = &Error{Code: "engine_failed", Message: "the text could not be computed to its end"}
		}
		if err != nil || end.Done {
			return made.NTokens, err
		}
	}
}

// Score is how likely the model finds a text: LogProbs[i] is that of token i + 1, given all before it. With the option "logprobs" above
// 0 TopLogProbs has so many of the likeliest tokens in its place.
type Score struct {
	NTokens     int
	LogProbs    []LogProb
	TopLogProbs [][]Likely
}

// Score is of a text or of ids.
func (c *Client) Score(p Prompt, o Options) (*Score, error) {
	score := &Score{}
	n, err := c.readWhole("score", p, o, func(reply json.RawMessage) (int, error) {
		var part Piece
		err := json.Unmarshal(reply, &part)
		score.LogProbs = append(score.LogProbs, part.LogProbs...)
		score.TopLogProbs = append(score.TopLogProbs, part.TopLogProbs...)
		return part.Cursor, err
	})
	score.NTokens = n
	return score, err
}

// Embed is a text, or ids, as a vector: the mean of the last hidden states, not scaled to any length.
func (c *Client) Embed(p Prompt, o Options) ([]float32, error) {
	var reply struct{ Embedding []float32 }
	_, err := c.readWhole("embed", p, o, func(bytes json.RawMessage) (int, error) {
		return 0, json.Unmarshal(bytes, &reply) // cursor 0 until it is there
	})
	return reply.Embedding, err
}

// Tokenize is the token ids of a text.
func (c *Client) Tokenize(text string) ([]int32, error) {
	var reply struct{ IDs []int32 }
	err := c.Call("tokenize", Options{"text": text}, &reply)
	return reply.IDs, err
}

// Detokenize is the text of token ids.
func (c *Client) Detokenize(ids []int32) (string, error) {
	var reply struct{ Text string }
	err := c.Call("detokenize", Options{"ids": ids}, &reply)
	return reply.Text, err
}

// SPDX-License-Identifier: Apache-2.0

package falcond

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"sync"
	"syscall"
	"testing"
)

const prompt = "Once upon a time"

// Against the falcond of $FALCOND_SOCKET with its bundled model.
func dial(t *testing.T) *Client {
	c, err := Dial("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestARunStreamsGoesOnAndForks(t *testing.T) {
	c := dial(t)
	run := must(c.Generate(Text(prompt), Options{"n": 20, "seed": 3, "ignore_eos": true}))(t)
	ids := 0
	text := ""
	for piece, err := range run.Pieces() {
		if err != nil {
			t.Fatal(err)
		}
		ids += len(piece.IDs)
		text += piece.Text
	}
	if ids != 20 || run.Finish != "length" {
		t.Fatalf("%d tokens, finish %q", ids, run.Finish)
	}
	again := must(c.Generate(Text(prompt), Options{"n": 20, "seed": 3, "ignore_eos": true}))(t)
	if same := must(again.Text())(t); same != text {
		t.Fatalf("%q instead of %q", same, text)
	}
	half := must(c.Generate(Text(prompt), Options{"n": 10, "seed": 3, "ignore_eos": true}))(t)
	begun := must(half.Text())(t)
	if err := half.Append(Prompt{}, Options{"n": 10}); err != nil {
		t.Fatal(err)
	}
	if same := begun + must(half.Text())(t); same != text {
		t.Fatalf("%q instead of %q", same, text)
	}
	twin := must(run.Fork(nil))(t)
	for _, r := range []*Run{run, twin} {
		if err := r.Append(Text(" And"), Options{"n": 10}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := must(run.Text())(t), must(twin.Text())(t); a != b || a == "" {
		t.Fatalf("%q and %q", a, b)
	}
	for _, r := range []*Run{run, again, half, twin} {
		if err := r.Drop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIDsAndConversationsArePromptsToo(t *testing.T) {
	c := dial(t)
	ids := must(c.Tokenize(prompt))(t)
	if back := must(c.Detokenize(ids))(t); back != prompt {
		t.Fatal(back)
	}
	for _, p := range []Prompt{IDs(ids), Conversation(Message{"user", prompt})} {
		run := must(c.Generate(p, Options{"n": 3}))(t)
		must(run.Text())(t)
		run.Drop()
	}
}

func TestLogProbabilitiesOfARunAreThoseOfItsScore(t *testing.T) {
	c := dial(t)
	run := must(c.Generate(Text(prompt), Options{"n": 6, "temp": 0, "logprobs": 2}))(t)
	var whole Piece
	for piece, err := range run.Pieces() {
		if err != nil {
			t.Fatal(err)
		}
		whole.IDs = append(whole.IDs, piece.IDs...)
		whole.LogProbs = append(whole.LogProbs, piece.LogProbs...)
		whole.TopLogProbs = append(whole.TopLogProbs, piece.TopLogProbs...)
	}
	if len(whole.IDs) == 0 || len(whole.LogProbs) != len(whole.IDs) || len(whole.TopLogProbs) != len(whole.IDs) {
		t.Fatalf("%+v", whole)
	}
	for i, top := range whole.TopLogProbs { // greedy
		if len(top) != 2 || top[0] != (Likely{whole.IDs[i], whole.LogProbs[i]}) || top[1].LogProb > top[0].LogProb {
			t.Fatalf("token %d of %+v", i, whole)
		}
	}
	ids := append(must(c.Tokenize(prompt))(t), whole.IDs...)
	score := must(c.Score(IDs(ids), Options{"logprobs": 2}))(t)
	if score.NTokens != len(ids) || !reflect.DeepEqual(score.LogProbs[run.NGiven-1:], whole.LogProbs) ||
		!reflect.DeepEqual(score.TopLogProbs[run.NGiven-1:], whole.TopLogProbs) {
		t.Fatalf("%+v instead of %+v", score, whole)
	}
	run.Drop()
}

func TestAnUnknownLogProbabilityIsNoNumber(t *testing.T) {
	var piece Piece
	if err := json.Unmarshal([]byte(`{"logprobs":[null,-1.5]}`), &piece); err != nil {
		t.Fatal(err)
	}
	if !math.IsNaN(float64(piece.LogProbs[0])) || piece.LogProbs[1] != -1.5 {
		t.Fatal(piece.LogProbs)
	}
}

func TestAnEmbeddingIsThatOfTheTextsTokens(t *testing.T) {
	c := dial(t)
	vector := must(c.Embed(Text(prompt), nil))(t)
	if len(vector) < 100 {
		t.Fatal(vector)
	}
	if same := must(c.Embed(IDs(must(c.Tokenize(prompt))(t)), nil))(t); !reflect.DeepEqual(same, vector) {
		t.Fatal(same)
	}
	if other := must(c.Embed(Text("Another text"), nil))(t); reflect.DeepEqual(other, vector) {
		t.Fatal(other)
	}
}

func TestWhatIsRefusedHasACode(t *testing.T) {
	var refused *Error
	err := dial(t).Call("next", Options{"session": "nobody", "cursor": 0}, nil)
	if !errors.As(err, &refused) || refused.Code != "no_session" {
		t.Fatal(err)
	}
}

func TestAKilledEngineCostsNoToken(t *testing.T) {
	c := dial(t)
	whole := must(c.Generate(Text(prompt), Options{"n": 400, "seed": 9, "ignore_eos": true}))(t)
	expected := must(whole.Text())(t)
	run := must(c.Generate(Text(prompt), Options{"n": 400, "seed": 9, "ignore_eos": true}))(t)
	var status struct{ Engine struct{ PID int } }
	if err := c.Call("status", nil, &status); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.Engine.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if text := must(run.Text())(t); text != expected {
		t.Fatalf("%q instead of %q", text, expected)
	}
	whole.Drop()
	run.Drop()
}

func TestManyGoroutinesShareAConnection(t *testing.T) {
	c := dial(t)
	var group sync.WaitGroup
	texts := make([]string, 20)
	for i := range texts {
		group.Add(1)
		go func() {
			defer group.Done()
			run, err := c.Generate(Text(prompt), Options{"n": 15, "seed": i % 4})
			if err != nil {
				t.Error(err)
				return
			}
			texts[i], err = run.Text()
			if err != nil {
				t.Error(err)
			}
			run.Drop()
		}()
	}
	group.Wait()
	for i := range texts {
		if texts[i] != texts[i%4] {
			t.Errorf("%d: %q instead of %q", i, texts[i], texts[i%4])
		}
	}
}

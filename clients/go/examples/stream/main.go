// SPDX-License-Identifier: Apache-2.0

// Streams an answer to its arguments, then goes on with the same session.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"

	"falcond"
)

func main() {
	c, err := falcond.Dial("")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	prompt := strings.Join(os.Args[1:], " ")
	if prompt == "" {
		prompt = "Once upon a time"
	}
	run, err := c.Generate(falcond.Text(prompt), falcond.Options{"n": 40, "seed": 1})
	for i := 0; err == nil && i < 2; i++ {
		for piece, e := range run.Pieces() {
			if e != nil {
				log.Fatal(e)
			}
			fmt.Print(piece.Text)
		}
		if i == 0 {
			err = run.Append(falcond.Text(" And then"), falcond.Options{"n": 40})
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println()
	run.Drop()
}

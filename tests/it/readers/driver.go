// Does what a test asks of the readers: `get KEY` on a line of the input is answered by
// `value TEXT`; for what it has to read from Postgres it asks the test, by `load KEY`.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/gomodule/redigo/redis"
	"readers"
)

func main() {
	url, style := os.Args[1], os.Args[2]
	input := bufio.NewScanner(os.Stdin)
	load := func(key string) (string, error) {
		fmt.Println("load " + key)
		input.Scan()
		return input.Text(), input.Err()
	}
	loadPage := func(key string) (string, []string, error) {
		text, err := load(key)
		parts := strings.Split(text, "|")
		return parts[0], strings.Fields(parts[1]), err
	}
	dial := func() (redis.Conn, error) { return redis.DialURL(url) }
	cache, err := dial()
	if err != nil {
		log.Fatal(err)
	}
	local := &readers.Local{Load: load}
	if style == "in_process" {
		go local.Listen(dial, "invalidations")
	}
	ways := map[string]func(string) (string, error){
		"entity": func(key string) (string, error) { return readers.Product(cache, load, key) },
		"tags": func(key string) (string, error) {
			return readers.Page(cache, "page:"+key, func() (string, []string, error) {
				return loadPage(key)
			})
		},
		"versions": func(key string) (string, error) {
			counters := []string{"list:" + key + ":version", "version:all"}
			return readers.Versioned(cache, "list:"+key, counters, func() (string, error) {
				return load(key)
			})
		},
		"expiry": func(key string) (string, error) {
			return readers.Hot(cache, "hot:"+key, func() (string, error) { return load(key) })
		},
		"in_process": local.Get,
	}
	for input.Scan() {
		value, err := ways[style](strings.Fields(input.Text())[1])
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("value " + value)
	}
}

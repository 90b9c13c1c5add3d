package readers

import (
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A message that never came, of a connection that died in silence, costs no more than this.
const ageMax = time.Minute

type kept struct {
	value string
	until time.Time
}

// Local keeps values in the process's own memory, which walpurge's messages empty.
type Local struct {
	Load func(key string) (string, error)

	lock   sync.Mutex
	values map[string]kept
	isTold bool
	// Another one after each message, and after each break.
	epoch int
}

func (l *Local) Get(key string) (string, error) {
	l.lock.Lock()
	known, epoch := l.values[key], l.epoch
	l.lock.Unlock()
	if time.Now().Before(known.until) {
		return known.value, nil
	}
	value, err := l.Load(key)
	if err != nil {
		return "", err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	// What was forgotten while it was being read may be older than the message.
	if l.isTold && epoch == l.epoch {
		l.values[key] = kept{value, time.Now().Add(ageMax)}
	}
	return value, nil
}

func (l *Local) forget(message string) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.epoch++
	if strings.Contains(message, "*") {
		l.values = map[string]kept{}
	} else {
		delete(l.values, message)
	}
}

func (l *Local) forgetAll(isTold bool) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.epoch++
	l.isTold = isTold
	l.values = map[string]kept{}
}

// Listen is for a goroutine of its own, and never returns. dial makes a new connection.
func (l *Local) Listen(dial func() (redis.Conn, error), channel string) {
	for {
		l.follow(dial, channel)
		l.forgetAll(false)
		time.Sleep(time.Second)
	}
}

// follow returns when the connection breaks.
func (l *Local) follow(dial func() (redis.Conn, error), channel string) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	messages := redis.PubSubConn{Conn: conn}
	if err := messages.Subscribe(channel); err != nil {
		return err
	}
	for {
		switch got := messages.Receive().(type) {
		case redis.Subscription:
			l.forgetAll(true)
		case redis.Message:
			l.forget(string(got.Data))
		case error:
			return got
		}
	}
}

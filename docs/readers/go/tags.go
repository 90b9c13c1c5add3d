package readers

import "github.com/gomodule/redigo/redis"

const (
	pageTTLSeconds = 3600
	// Longer than any page lives: a list that expires first forgets pages that still exist.
	tagTTLSeconds = 2 * pageTTLSeconds
)

// Page returns the page at key, under the tags of what it shows: walpurge deletes every page that
// a tag lists. load makes the page from Postgres, and names its tags.
func Page(
	cache redis.Conn, key string, load func() (body string, tags []string, err error),
) (string, error) {
	cached, err := redis.String(cache.Do("GET", key))
	if err != redis.ErrNil {
		return cached, err
	}
	body, tags, err := load()
	if err != nil {
		return "", err
	}
	// All in one step, so that no page exists without being listed.
	cache.Send("MULTI")
	cache.Send("SET", key, body, "EX", pageTTLSeconds)
	for _, tag := range tags {
		cache.Send("SADD", "tags:"+tag, key)
		cache.Send("EXPIRE", "tags:"+tag, tagTTLSeconds)
	}
	_, err = cache.Do("EXEC")
	return body, err
}
